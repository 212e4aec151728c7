"""Runs of `fit` that are interrupted again and again, within one process.

    expected = plain_fit("mlp")
    result = interrupted_fit("mlp", run_dir, every=3, kills=[5])
    result = resumed_fit(build("mlp"), run_dir)

Each start but the first must begin later than at the first batch, or these fail:
starting over would give the same result. Each start builds the program anew, as a new
process would. An interruption is an exception out of `fit`; that real kills do the same
is shown by processes of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from helpers.fit_variants import VARIANTS
from helpers.keras_programs import (
    PROGRAMS,
    Program,
    first_batch,
    fresh,
    result_of,
)
from helpers.starts import StartedOver

import resumable_tf as rtf

keras = tf.keras
Result = dict[str, np.ndarray]


class Interrupted(Exception):
    """Stands for the death of the process."""


def build(name: str) -> Program:
    """Returns a program or variant as a new process would make it."""
    return fresh({**PROGRAMS, **VARIANTS}[name])


def interrupt_after(num_batches: int) -> Any:
    """Returns a callback that interrupts `fit` after so many batches."""
    left = [num_batches]

    def count(batch: int, logs: Any = None) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted

    return keras.callbacks.LambdaCallback(on_batch_end=count)


def fit(program: Program, callbacks: Sequence[Any]) -> Result:
    """Trains a program to its end and returns weights and history."""
    history = program.model.fit(
        **program.arguments, callbacks=[*program.callbacks, *callbacks], verbose=0
    )
    return result_of(program.model, history)


def resumed_fit(program: Program, run_dir: Any, **settings: Any) -> Result:
    """Trains an interrupted program to its end; it must not start over.

    Args:
        program: The program as a new process would make it.
        run_dir: The run directory.
        **settings: Of `ResumeCallback`.
    """
    return _continue(program, [rtf.ResumeCallback(str(run_dir), **settings)])


def _continue(program: Program, callbacks: Sequence[Any]) -> Result:
    """Trains on; fails, at the end too, if the first batch is the run's first."""
    begun: list[tuple[int, int]] = []
    try:
        return fit(program, [first_batch(begun), *callbacks])
    finally:
        if begun and begun[0] == (0, 0):
            raise StartedOver("began at the first batch of the first epoch")
        if not begun:
            raise StartedOver("trained no batch after the interruption")


def plain_fit(name: str) -> Result:
    """Returns what `fit` gives without any callback of ours."""
    return fit(build(name), [])


def interrupted_fit(
    name: str,
    run_dir: Any,
    *,
    every: int | None,
    kills: Sequence[int],
    program: Callable[[], Program] | None = None,
) -> Result:
    """Returns what `fit` gives when it is interrupted and started again.

    Args:
        name: The program.
        run_dir: The run directory.
        every: Batches between two saves; None saves at epochs' ends.
        kills: Batches that each start lives, but for the last.
        program: Makes the program in place of the one named.
    """
    for number, kill in enumerate(kills):
        made = program() if program else build(name)
        resume = rtf.ResumeCallback(str(run_dir), save_every_steps=every)
        train = _continue if number else fit
        try:
            train(made, [resume, interrupt_after(kill)])
        except Interrupted:
            wait_for_saves()
        else:
            raise AssertionError(f"{name} ended before batch {kill} of this start")
    made = program() if program else build(name)
    return resumed_fit(made, run_dir, save_every_steps=every)


def wait_for_saves() -> None:
    """Waits for the save in flight; the death of a process would end it."""
    for thread in threading.enumerate():
        if thread.name.startswith("save-"):
            thread.join()


def differences(one: Result, other: Result) -> list[str]:
    """Returns the names of all that is not equal bit for bit."""
    found = sorted(one.keys() ^ other.keys())
    for name in sorted(one.keys() & other.keys()):
        if not np.array_equal(one[name], other[name], equal_nan=True):
            found.append(name)
    return found
