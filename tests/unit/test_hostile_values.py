"""A checkpoint is data: whatever it holds, nothing runs and nothing else is changed.

Mutated and made-up values are decoded and given to callbacks: each one is restored or
refused by one typed error. Python's own audit events tell of files, processes and code.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.callback_shapes import SHAPES, SHARED, Setting
from helpers.deep_form import deep_form
from helpers.hostile_values import by_hand, hostile

import resumable_tf as rtf
from resumable_tf.state.global_random import global_random, set_global_random
from resumable_tf.state.python_values import MalformedValue, decode, encode
from resumable_tf.training.keras.callback_states import CallbackStates

EVENTS = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "exec", "open"}
EVENTS |= {"os.remove", "os.rename", "os.truncate", "pickle.find_class", "compile"}
MAX_GROWTH_KB = 200 << 10
seen: list[str] = []
is_watching = [False]


def watch(event: str, arguments: Any) -> None:
    if is_watching[0] and event in EVENTS:
        seen.append(f"{event} {str(arguments)[:80]}")


sys.addaudithook(watch)


class Guarded(tf.keras.callbacks.Callback):
    """Has attributes that its code assigns before training only."""

    def __init__(self) -> None:
        super().__init__()
        self.path = "settings.txt"
        self.hook = print
        self.frozen = Setting(0.5)
        self.secrets = ("a", 1)
        self.seen = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen += 1


def guarded_parts(callbacks: list[Any]) -> Any:
    guarded, stop = callbacks[-2:]
    parts = [guarded.path, guarded.hook, guarded.frozen, guarded.secrets]
    parts += [stop.patience, stop.monitor, stop.baseline, stop.verbose, stop.mode]
    parts += [dataclasses.astuple(guarded.frozen), vars(type(guarded)).keys()]
    # What the code of this module, or of the shapes', assigns to some object may come.
    names = set(vars(guarded)) & {"path", "hook", "frozen", "secrets", "system"}
    return deep_form([*parts[:2], *parts[3:9]]), parts[9], sorted(names)


def program(shape: Any) -> list[Any]:
    return [shape(), Guarded(), tf.keras.callbacks.EarlyStopping("loss", patience=2)]


def states(callbacks: list[Any]) -> CallbackStates:
    return CallbackStates(callbacks, covered=lambda variable: False, began=0.0)


def valid_values() -> list[tuple[Any, bytes]]:
    found = []
    for shape in SHAPES:
        SHARED["seen"] = 0
        callbacks = program(shape)
        followed = states(callbacks)
        callbacks[0].train()
        callbacks[1].seen = 3
        callbacks[2].wait, callbacks[2].best = 1, 0.5
        callbacks[2].best_weights = [np.ones(3, np.float32)]
        found.append((shape, encode(followed.capture())))
    return found


def outcome(data: bytes, followed: CallbackStates) -> str:
    """Returns what becomes of a value; any other error is not caught."""
    try:
        value = decode(data)
    except MalformedValue:
        return "malformed"
    try:
        followed.apply(value)
    except rtf.CheckpointMismatchError:
        return "refused"
    return "restored"


def fuzz(count: int, seed: int) -> dict[str, int]:
    outcomes = {"malformed": 0, "refused": 0, "restored": 0}
    values = valid_values()
    for index, (shape, valid) in enumerate(values):
        made = list(by_hand()) if index == 0 else []
        per_shape = count // len(values)
        inputs = [*made, valid, *hostile([valid], count=per_shape, seed=seed + index)]
        for begin in range(0, len(inputs), 25):
            callbacks = program(shape)
            followed = states(callbacks)
            before = guarded_parts(callbacks)
            followed.capture()  # Loads what is loaded late.
            is_watching[0] = True
            for data in inputs[begin : begin + 25]:
                outcomes[outcome(data, followed)] += 1
            is_watching[0] = False
            assert guarded_parts(callbacks) == before
            assert type(callbacks[1]) is Guarded and callbacks[1].hook is print
    return outcomes


def check(count: int, seed: int) -> None:
    outcomes = fuzz(24, seed)  # Whatever loads modules late has done so now.
    modules, before = set(sys.modules), resource.getrusage(resource.RUSAGE_SELF)
    seen.clear()
    outcomes = fuzz(count, seed)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert not seen
    assert set(sys.modules) == modules
    assert after.ru_maxrss - before.ru_maxrss < MAX_GROWTH_KB
    assert sum(outcomes.values()) >= count and all(outcomes.values()), outcomes


def test_3000_hostile_records_of_callbacks_run_and_change_nothing() -> None:
    check(3000, seed=1)


@pytest.mark.proof
def test_many_hostile_records_of_callbacks_run_and_change_nothing() -> None:
    for seed in range(100, 140):
        check(6000, seed=seed)


def broken_states() -> list[tuple[str, Any]]:
    def python(**changes: Any) -> Any:
        return {**global_random()["python"], **changes}

    def of_tensorflow(**changes: Any) -> Any:
        return {**global_random()["tensorflow"], **changes}

    def numpy(**changes: Any) -> Any:
        state = global_random()["numpy"]
        return {**state, "state": {**state["state"], **changes}}

    words = global_random()["python"]["words"]
    position = np.append(words[:-1], np.uint32(625))
    return [
        ("python", python(version=2)),
        ("python", python(words=words[:-1])),
        ("python", python(words=position)),
        ("python", python(words=words.astype(np.int64))),
        ("python", python(words=words.tolist())),
        ("python", python(gauss="x")),
        ("python", python(more=1)),
        ("python", None),
        ("tensorflow", of_tensorflow(seed="1")),
        ("tensorflow", of_tensorflow(operations=1)),
        ("tensorflow", of_tensorflow(generator={"algorithm": 9, "values": []})),
        ("tensorflow", of_tensorflow(generator={"algorithm": 1, "values": ["x"]})),
        ("tensorflow", None),
        ("keras", [1]),
        ("keras", [np.zeros(2)]),
        ("keras", []),
        ("tf_keras", 1),
        ("numpy", numpy(pos=625)),
        ("numpy", numpy(pos=-1)),
        ("numpy", numpy(key=np.zeros(623, np.uint32))),
        ("numpy", numpy(key=np.zeros(624, np.int32))),
        ("numpy", numpy(more=1)),
        ("numpy", {**global_random()["numpy"], "bit_generator": "PCG64"}),
        ("numpy", {**global_random()["numpy"], "has_gauss": 2}),
        ("numpy", []),
        ("other", 1),
    ]


@pytest.mark.parametrize(("name", "state"), broken_states())
def test_a_broken_global_state_is_refused_before_anything_is_set(
    name: str, state: Any
) -> None:
    before = deep_form(global_random())
    with pytest.raises(MalformedValue):
        set_global_random({**global_random(), name: state})
    assert deep_form(global_random()) == before


@pytest.mark.parametrize("name", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_each_part_of_a_generator_is_checked(name: str, tmp_path: Path) -> None:
    """NumPy itself takes positions outside its tables, and reads foreign memory."""
    made = np.random.Generator(getattr(np.random, name)(1))
    saved = rtf.TrainState(noise=made).trackables["noise"]
    valid = saved.serialize()
    expected = made.normal(size=3)
    saved.deserialize(valid)
    np.testing.assert_array_equal(made.normal(size=3), expected)
    for data in [*hostile([valid], count=150, seed=3), *by_hand()]:
        before = repr(made.bit_generator.state)
        try:
            saved.deserialize(data)
        except rtf.CheckpointCorruptError as error:
            assert "noise" in str(error)
            assert repr(made.bit_generator.state) == before
        made.normal(size=5)
        assert made.bit_generator.state["bit_generator"] == name
