"""One object of a checkpoint is read as a whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from resumable_tf.errors import CheckpointMismatchError, StateError
from resumable_tf.state import TrainState
from resumable_tf.state.one_object import restore_object


class _Two(tf.Module):
    def __init__(self, size: int = 3, value: float = 0.0) -> None:
        super().__init__()
        self.first = tf.Variable(tf.fill([size], value))
        self.second = tf.Variable(tf.fill([2], value + 1))


class _Listed(tf.keras.Model):
    """A Keras model whose layers are in a list only."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [tf.keras.layers.Dense(2), tf.keras.layers.Dense(1)]

    def call(self, x: Any) -> Any:
        for part in self.parts:
            x = part(x)
        return x


@pytest.fixture
def path(tmp_path: Path) -> str:
    state = TrainState(model=_Two(value=5.0), other=tf.Variable(7.0))
    return str(state.checkpoint().write(str(tmp_path / "ckpt")))


def test_the_object_is_restored_and_the_rest_is_left_alone(path: str) -> None:
    model = _Two()
    restore_object(path, "model", model)
    np.testing.assert_array_equal(model.first, [5.0, 5.0, 5.0])
    np.testing.assert_array_equal(model.second, [6.0, 6.0])


def test_another_shape_is_named_and_nothing_is_touched(path: str) -> None:
    model = _Two(size=4)
    with pytest.raises(CheckpointMismatchError, match=r"model/first: saved float32"):
        restore_object(path, "model", model)
    np.testing.assert_array_equal(model.second, [1.0, 1.0])


def test_what_the_checkpoint_lacks_is_named_and_nothing_is_touched(path: str) -> None:
    model = _Two()
    model.third = tf.Variable(0.0)
    with pytest.raises(CheckpointMismatchError, match="model/third: not in the check"):
        restore_object(path, "model", model)
    np.testing.assert_array_equal(model.first, [0.0, 0.0, 0.0])


def test_layers_that_the_object_graph_does_not_reach_are_refused(path: str) -> None:
    model = _Listed()
    model(tf.zeros([1, 3]))
    with pytest.raises(StateError, match="Make each layer an attribute of its own"):
        restore_object(path, "model", model)
