"""What lives beside the state is found, and named as its user would find it."""

from __future__ import annotations

import collections
import itertools
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from resumable_tf.auditing.live_values import is_users, live_values
from resumable_tf.auditing.log import RESTORED, STEP, read_log
from resumable_tf.auditing.recorder import Recorder
from resumable_tf.auditing.switch import PLAN_VARIABLE, Plan, active_recorder
from resumable_tf.auditing.tokens import digest, token
from resumable_tf.errors import UsageError
from resumable_tf.state import TrainState

FILE = "test_audit_live_values.py"
SETTINGS = {"rate": 0.5}


def found(covered: Callable[[Any], bool] = lambda variable: False) -> dict[str, Any]:
    return live_values(covered=covered, frame=sys._getframe(1))


def same(value: Any) -> Any:
    return token(value, covered=lambda variable: False)


class Holder:
    """An object of the user's, with a counter of the class."""

    num_made = 0

    def __init__(self) -> None:
        Holder.num_made += 1
        self.rng = np.random.default_rng(Holder.num_made)


def make_step() -> tuple[Callable[[], None], Callable[[], None]]:
    count, rng = 0, random.Random(1)

    def step() -> None:
        nonlocal count
        count += 1

    def draw() -> None:
        rng.random()

    return step, draw


def test_closures_are_named_by_variable_function_and_file() -> None:
    step, draw = make_step()
    before = found()
    step()
    after = found()
    changed = {name for name in before if after.get(name) != before[name]}
    assert f"count in make_step() of {FILE}" in changed
    assert f"rng in make_step() of {FILE}" not in changed
    draw()
    kind, text = found()[f"rng in make_step() of {FILE}"]
    assert kind == "random"
    assert text != before[f"rng in make_step() of {FILE}"][1]


def test_globals_attributes_locals_and_generators_are_named() -> None:
    def rows() -> Iterator[int]:
        yield from (place for place in range(5))

    holder, running = Holder(), rows()
    first = next(running)
    names = found()
    assert names[f"SETTINGS of {FILE}"] == same({"rate": 0.5})
    assert names[f"Holder.rng of {FILE}"] == same(np.random.default_rng(1))
    assert names[f"Holder.num_made of {FILE}"] == same(Holder.num_made)
    first_name = "first in test_globals_attributes_locals_and_generators_are_named()"
    assert names[f"{first_name} of {FILE}"] == same(first)
    assert f"place in <genexpr>() of {FILE}" in names
    assert holder.rng.random() and found()[f"Holder.rng of {FILE}"] != same(
        np.random.default_rng(1)
    )


def test_variables_are_found_unless_the_state_holds_them() -> None:
    hidden = [tf.Variable(1.0, name="hidden")]
    shown = tf.Variable(2.0, name="shown")
    generator = tf.random.Generator.from_seed(1)
    names = found(lambda variable: variable is shown)
    function = "test_variables_are_found_unless_the_state_holds_them()"
    assert names[f"hidden in {function} of {FILE}"][0] == "variable"
    assert names[f"generator in {function} of {FILE}"][0] == "random"
    assert not [n for n in names if n.startswith(("shown in ", "variable shown"))]
    metric = tf.keras.metrics.Mean(name="mean_loss")
    metric.update_state(3.0)
    kind, text = found()["variable mean_loss/total"]
    assert (kind, text) == ("variable", digest(np.float32(3.0)))
    assert len(hidden) == 1 and generator is not None


def test_the_global_generators_are_followed() -> None:
    for name, draw in {
        "the global generator of Python's random": random.random,
        "the global generator np.random": np.random.random,
        "the global generator tf.random": lambda: tf.random.uniform([]),
    }.items():
        tf.random.set_seed(1)
        before = found()
        draw()
        after = found()
        assert before[name][0] == "random" and before[name] != after[name], name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (0.1, 0.1 + 1e-17 + 2e-17),
        ([1, 2], (1, 2)),
        (np.float32([1, 2]), np.float32([[1, 2]])),
        (itertools.count(1), itertools.count(2)),
        (collections.deque([1]), collections.deque([2])),
        ({"a": 1}, {"a": 2}),
        (tf.constant([1.0]), tf.constant([-1.0])),
    ],
)
def test_values_that_differ_have_other_tokens(one: Any, other: Any) -> None:
    assert same(one) == same(one) is not None
    assert (same(one) != same(other)) == (repr(one) != repr(other))


def test_sets_do_not_depend_on_their_order_and_objects_have_no_token() -> None:
    assert same({"a", "b", "c"}) == same({"c", "b", "a"})
    assert same(object()) is None and same(Holder) is None
    assert same([np.random.default_rng(1), 1])[0] == "random"


def test_only_files_of_the_user_count() -> None:
    assert is_users(__file__)
    assert not is_users(tf.__file__)
    assert not is_users(os.__file__)
    assert not is_users(sys.modules["resumable_tf.errors"].__file__)
    assert not is_users("<string>")


def test_without_a_plan_there_is_no_recorder() -> None:
    assert PLAN_VARIABLE not in os.environ
    assert active_recorder() is None


def test_a_recorder_notes_states_batches_and_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(iter(tf.data.Dataset.range(1)))
    monkeypatch.setattr(kind, "_next_internal", kind._next_internal)
    weights = tf.Variable([1.0, 2.0], name="weights")
    state = TrainState(weights=weights)
    recorder = Recorder(Plan(str(tmp_path / "log"), str(tmp_path / "run"), stop_at=9))
    iterator = iter(tf.data.Dataset.range(6).batch(2))
    next(iterator)  # Before the restore: none of the program's.
    recorder.restored(state, is_new=False)
    next(iterator)
    weights.assign([3.0, 4.0])
    state.step, state.extra = 1, {"where": f"{tmp_path}/run/x"}
    recorder.end_step(state, wait=lambda: None)
    recorder.end_step(state, wait=lambda: None)  # The same step counts once.
    first, second = read_log(tmp_path / "log")
    assert (first.kind, second.kind, second.step) == (RESTORED, STEP, 1)
    assert list(first.batches) == []
    assert list(second.batches) == [digest(np.array([2, 3], np.int64))]
    key = "weights/.ATTRIBUTES/VARIABLE_VALUE"
    assert second.state[key] == digest(np.float32([3.0, 4.0])) != first.state[key]
    assert second.state["extra/where"] == digest("'{run_dir}/x'")
    assert key in first.labels and not second.labels


def test_a_recorder_refuses_another_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(iter(tf.data.Dataset.range(1)))
    monkeypatch.setattr(kind, "_next_internal", kind._next_internal)
    recorder = Recorder(Plan(str(tmp_path / "log"), str(tmp_path / "run"), stop_at=9))
    recorder.check_run_dir(str(tmp_path / "run"))
    recorder.check_run_dir(str(tmp_path / "run" / "below"))
    with pytest.raises(UsageError, match="RESUMABLE_TF_RUN_DIR"):
        recorder.check_run_dir(str(tmp_path / "other"))
