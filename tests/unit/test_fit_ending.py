"""Whatever way `fit` ends, everything is given back, and a retry continues exactly.

Guards against an exception out of `fit` that leaves signal handlers, the lease, a
running save or changed methods of the model behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.keras_programs import fresh, labels, numbers, result_of, shuffled

import resumable_tf as rtf
from resumable_tf.checkpoint.tier import Tier

keras = tf.keras
NUM_BATCHES, EPOCHS = 8, 3
RETRY_AT = 10
"""Batches after which each of the programs below raises."""


class Broken(Exception):
    """What ends a `fit` here."""


class Model(keras.Sequential):
    """Raises where it is told to."""

    broken_at = ""

    def evaluate(self, *arguments: Any, **named: Any) -> Any:
        if self.broken_at == "evaluate":
            raise Broken
        return super().evaluate(*arguments, **named)

    def reset_metrics(self) -> None:
        if self.broken_at == "reset_metrics":
            raise Broken
        super().reset_metrics()


def raising(hook: str, error: BaseException, *, after: int) -> Any:
    """Returns a callback that raises in a hook, once so many batches are done."""
    left = [after]

    def count(*_: Any, **__: Any) -> None:
        left[0] -= 1

    def check(*_: Any, **__: Any) -> None:
        if left[0] <= 0:
            raise error

    callback = keras.callbacks.Callback()
    callback.on_train_batch_end = count
    former = count if hook == "on_train_batch_end" else lambda *_, **__: None

    def hooked(*arguments: Any, **named: Any) -> None:
        check()
        former()

    setattr(callback, hook, hooked)
    return callback


def make() -> tuple[Any, dict[str, Any]]:
    model = Model([keras.Input((5,)), keras.layers.Dense(3), keras.layers.Dropout(0.2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    arguments = {
        "x": shuffled(numbers(30, 5), labels(30)),
        "validation_data": (numbers(8, 5, seed=3), labels(8)),
        "epochs": EPOCHS,
        "verbose": 0,
        "shuffle": False,
    }
    return model, arguments


def state_of(model: Any) -> dict[str, Any]:
    """Returns what a `fit` must leave as it found it, outside of the model's values."""
    names = ("evaluate", "reset_metrics", "train_step", "_initial_epoch")
    names += ("_eval_data_handler",)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return {
        "handlers": handlers,
        "model": {name: vars(model).get(name) for name in names},
    }


@pytest.fixture(autouse=True)
def _no_former_fit() -> Iterator[None]:
    fresh(lambda: None)  # type: ignore[arg-type, return-value]
    yield


def break_in(hook: str, error: BaseException) -> Callable[[Any, dict[str, Any]], Any]:
    def prepare(model: Any, arguments: dict[str, Any]) -> Any:
        return raising(hook, error, after=RETRY_AT)

    return prepare


def break_model(method: str) -> Callable[[Any, dict[str, Any]], Any]:
    def prepare(model: Any, arguments: dict[str, Any]) -> Any:
        def at_begin(epoch: int, logs: Any = None) -> None:
            model.broken_at = method if epoch == 1 else ""

        return keras.callbacks.LambdaCallback(on_epoch_begin=at_begin)

    return prepare


WAYS = {
    "epoch begin": break_in("on_epoch_begin", Broken()),
    "batch begin": break_in("on_train_batch_begin", Broken()),
    "batch end": break_in("on_train_batch_end", Broken()),
    "test begin": break_in("on_test_begin", Broken()),
    "test batch": break_in("on_test_batch_end", Broken()),
    "epoch end": break_in("on_epoch_end", Broken()),
    "train end": break_in("on_train_end", Broken()),
    "KeyboardInterrupt": break_in("on_train_batch_end", KeyboardInterrupt()),
    "SystemExit": break_in("on_train_batch_end", SystemExit(3)),
    "evaluate": break_model("evaluate"),
    "reset_metrics": break_model("reset_metrics"),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_exception_gives_everything_back_at_once(tmp_path: Path, way: str) -> None:
    """Inside `except`, where the traceback keeps all frames of `fit` alive."""
    run_dir = str(tmp_path / "run")
    expected = fresh(lambda: plain())  # type: ignore[arg-type, return-value]
    model, arguments = fresh(make)  # type: ignore[arg-type]
    before = state_of(model)
    breaking = WAYS[way](model, arguments)
    resume = rtf.ResumeCallback(run_dir, save_every_steps=3)
    try:
        model.fit(**arguments, callbacks=[resume, breaking])
    except (Broken, KeyboardInterrupt, SystemExit):
        kept = sys.exc_info()
        assert state_of(model) == before, way
        assert not os.path.exists(f"{run_dir}/lease.json")
        assert saved_steps(run_dir)
        model.broken_at = ""
        retried = model.fit(
            **arguments, callbacks=[rtf.ResumeCallback(run_dir, save_every_steps=3)]
        )
        assert kept
    else:
        raise AssertionError(f"{way}: nothing was raised")
    found = result_of(model, retried)
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def plain() -> dict[str, np.ndarray]:
    model, arguments = make()
    return result_of(model, model.fit(**arguments))


def saved_steps(run_dir: str) -> list[int]:
    return [info.step for info in rtf.Checkpointer(run_dir).checkpoints()]


def test_the_save_in_flight_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Tier.write

    def slowly(tier: Tier, *arguments: Any) -> Any:
        time.sleep(0.5)
        return write(tier, *arguments)

    monkeypatch.setattr(Tier, "write", slowly)
    model, arguments = fresh(make)  # type: ignore[arg-type]
    resume = rtf.ResumeCallback(str(tmp_path), save_every_steps=4)
    breaking = raising("on_train_batch_end", Broken(), after=4)
    with pytest.raises(Broken):
        model.fit(**arguments, callbacks=[resume, breaking])
    assert saved_steps(str(tmp_path)) == [4]


def test_an_exception_before_the_first_batch_gives_everything_back(
    tmp_path: Path,
) -> None:
    """In a callback's on_train_begin, after ours."""
    model, arguments = fresh(make)  # type: ignore[arg-type]
    before = state_of(model)
    breaking = raising("on_train_begin", Broken(), after=0)
    with pytest.raises(Broken):
        model.fit(**arguments, callbacks=[rtf.ResumeCallback(str(tmp_path)), breaking])
    assert state_of(model) == before
    assert not os.path.exists(tmp_path / "lease.json")


def test_an_exception_that_a_callback_catches_ends_nothing(tmp_path: Path) -> None:
    caught = []

    class Evaluate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            try:
                self.model.evaluate("no data", verbose=0)
            except (IndexError, TypeError, ValueError):
                caught.append(batch)

    model, arguments = fresh(make)  # type: ignore[arg-type]
    resume = rtf.ResumeCallback(str(tmp_path), save_every_steps=5)
    model.fit(**arguments, callbacks=[resume, Evaluate()])
    assert len(caught) == NUM_BATCHES * EPOCHS
    assert saved_steps(str(tmp_path))[-1] == NUM_BATCHES * EPOCHS


def test_ctrl_c_in_a_later_plain_fit_interrupts_it(tmp_path: Path) -> None:
    model, arguments = fresh(make)  # type: ignore[arg-type]
    breaking = raising("on_train_batch_end", Broken(), after=2)
    with pytest.raises(Broken):
        model.fit(**arguments, callbacks=[rtf.ResumeCallback(str(tmp_path)), breaking])

    def interrupt(batch: int, logs: Any = None) -> None:
        signal.raise_signal(signal.SIGINT)

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(**arguments, callbacks=[callback])


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_an_epoch_without_a_batch_gives_everything_back(tmp_path: Path) -> None:
    """tf_keras raises in `fit` itself; Keras 3 goes on without a loss."""
    model, arguments = fresh(make)  # type: ignore[arg-type]
    before = state_of(model)
    empty = arguments.pop("x").filter(lambda *_: False)
    resume = rtf.ResumeCallback(str(tmp_path))
    with contextlib.suppress(ValueError, rtf.ResumableError):
        model.fit(empty, **arguments, callbacks=[resume])
    assert state_of(model) == before
    assert not os.path.exists(tmp_path / "lease.json")
