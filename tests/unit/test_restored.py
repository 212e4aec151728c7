"""Restoring in groups: all of it, strictly, and never much more in memory.

Guards against a restore that needs a second copy of the state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from resumable_tf.state import TrainState, restored

KEY = "{}/.ATTRIBUTES/VARIABLE_VALUE"


def make_state(*, offset: float) -> TrainState:
    variables = {f"v{n}": tf.Variable(tf.range(100.0) * (n + offset)) for n in range(6)}
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, 0)
    if offset:
        table.insert(tf.constant(["a"]), tf.constant([7], tf.int64))
    large = tf.Variable(tf.zeros(900))
    return TrainState(table=table, large=large, global_random=False, **variables)


def inventory_of(state: TrainState) -> dict[str, tuple[tuple[int, ...], str]]:
    return {entry.key: (entry.shape or (), entry.dtype) for entry in state.inventory()}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[TrainState, str]:
    state = make_state(offset=0.5)
    return state, state.capture().checkpoint().save(str(tmp_path / "ckpt"))


def test_no_more_is_read_at_once_than_a_group(
    saved: tuple[TrainState, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restored, "GROUP_BYTES", 1000)
    read: list[list[str]] = []
    original = tf.raw_ops.RestoreV2

    def restore(**arguments: Any) -> Any:
        read.append(arguments["tensor_names"])
        return original(**arguments)

    monkeypatch.setattr(tf.raw_ops, "RestoreV2", restore)
    source, path = saved
    state = make_state(offset=0.0)
    state.apply(path, inventory_of(source))
    names = [[key.split("/")[0] for key in keys] for keys in read]
    # 400 bytes each; what is larger than a group goes alone, and so does an object.
    variables = [["large"], ["v0", "v1"], ["v2", "v3"], ["v4", "v5"]]
    assert names == [*variables, ["table", "table"]]
    for name, variable in state.trackables.items():
        if name != "table":
            expected = source.trackables[name].numpy()
            np.testing.assert_array_equal(variable.numpy(), expected)
    assert state.trackables["table"].lookup(tf.constant("a")).numpy() == 7


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_other_keys_are_refused_before_anything_is_assigned(
    saved: tuple[TrainState, str], change: str
) -> None:
    source, path = saved
    inventory = inventory_of(source)
    if change == "missing":
        del inventory[KEY.format("v5")]
    else:
        inventory[KEY.format("other")] = ((), "float32")
    state = make_state(offset=0.0)
    named = {"missing": "v5", "unknown": "other"}[change]
    with pytest.raises(AssertionError, match=named):
        state.apply(path, inventory)
    assert state.trackables["v1"].numpy()[1] == 1.0
