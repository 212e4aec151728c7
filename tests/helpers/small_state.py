"""A training state without Keras whose value at every step is known.

state = small_state()
advance(state)              # one step
assert_at_step(state, 3)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.state import TrainState

SIZE = 1000


class Small(tf.Module):
    """Weights, a counter and a random generator."""

    def __init__(self, size: int = SIZE) -> None:
        super().__init__()
        self.weights = tf.Variable(tf.zeros(size))
        self.counter = tf.Variable(0, dtype=tf.int64)
        self.generator = tf.random.Generator.from_seed(3)


class FixedData:
    """Data that can only describe itself."""

    def __init__(self, **described: Any) -> None:
        self._described = described

    def describe(self) -> dict[str, Any]:
        return self._described


def small_state(*, data: Any = None, size: int = SIZE) -> TrainState:
    return TrainState(small=Small(size), data=data, global_random=False)


def advance(state: TrainState, num_steps: int = 1) -> None:
    """Runs training steps whose result depends on all before them."""
    small = state.trackables["small"]
    for _ in range(num_steps):
        noise = small.generator.normal([small.weights.shape[0]])
        small.weights.assign(small.weights * 0.5 + noise)
        small.counter.assign_add(1)
        state.step += 1
        state.extra = {"seen": state.step}


def values(state: TrainState) -> list[Any]:
    return [variable.numpy() for variable in state.trackables["small"].variables]


def assert_at_step(state: TrainState, step: int) -> None:
    """Compares bit for bit with a run that was never interrupted."""
    expected = small_state(size=state.trackables["small"].weights.shape[0])
    advance(expected, step)
    assert state.step == step
    assert state.extra == ({"seen": step} if step else {})
    for one, other in zip(values(state), values(expected), strict=True):
        np.testing.assert_array_equal(one, other)
