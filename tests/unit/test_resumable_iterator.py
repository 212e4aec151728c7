"""A pipeline's position is restored exactly, at every batch and in later epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import resumable_tf as rtf

PIPELINES: dict[str, Callable[[], tf.data.Dataset]] = {
    "in order": lambda: tf.data.Dataset.range(10).batch(3),
    "shuffled": lambda: tf.data.Dataset.range(10).shuffle(6, seed=4).batch(3),
    "reshuffled with prefetch": lambda: (
        tf.data.Dataset.range(10).shuffle(10).batch(3).prefetch(2)
    ),
    "shuffled twice and filtered": lambda: (
        tf.data.Dataset.range(14)
        .shuffle(5)
        .filter(lambda i: i != 3)
        .batch(4)
        .shuffle(2)
        .prefetch(1)
    ),
    "passed over twice": lambda: tf.data.Dataset.range(6).shuffle(4).repeat(2).batch(2),
    "passed over twice with prefetch": lambda: (
        tf.data.Dataset.range(6).shuffle(4).repeat(2).batch(2).prefetch(2)
    ),
    "endless": lambda: tf.data.Dataset.range(7).shuffle(7).repeat().batch(2),
    "cached and mapped": lambda: (
        tf.data.Dataset.range(9).cache().shuffle(9).map(lambda i: i * 2).batch(2)
    ),
}
NUM_BATCHES = 17


def read(batches: Any, count: int) -> list[list[int]]:
    return [next(batches).numpy().tolist() for _ in range(count)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    tf.keras.utils.set_random_seed(3)


@pytest.mark.parametrize("name", PIPELINES)
def test_every_position_continues_as_if_nothing_had_happened(name: str) -> None:
    """Also the epochs after it, whose seeds TensorFlow's own state may lack."""
    tf.keras.utils.set_random_seed(3)
    whole = rtf.ResumableIterator(PIPELINES[name]())
    expected, positions = [], [whole.serialize()]
    for _ in range(NUM_BATCHES):
        expected += read(whole, 1)
        positions.append(whole.serialize())
    for done in range(NUM_BATCHES):
        tf.keras.utils.set_random_seed(3)
        resumed = rtf.ResumableIterator(PIPELINES[name]())
        resumed.deserialize(positions[done])
        assert read(resumed, NUM_BATCHES - done) == expected[done:], done


def test_it_gives_what_a_loop_over_the_dataset_gives() -> None:
    plain = PIPELINES["reshuffled with prefetch"]()
    expected = [batch.numpy().tolist() for _ in range(3) for batch in plain]
    tf.keras.utils.set_random_seed(3)
    batches = rtf.ResumableIterator(PIPELINES["reshuffled with prefetch"]())
    assert read(batches, len(expected)) == expected
    assert (batches.epoch, batches.batch) == (2, 4)


def test_a_checkpoint_holds_it_and_refuses_another_pipeline(tmp_path: Any) -> None:
    def state(size: int) -> tuple[Any, Any]:
        data = tf.data.Dataset.range(20).shuffle(8, seed=1).batch(size)
        batches = rtf.ResumableIterator(data)
        return rtf.TrainState(data=batches, weight=tf.Variable(1.0)), batches

    first, batches = state(3)
    read(batches, 4)
    first.step = 4
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.save(first)
    expected = read(batches, 5)
    second, batches = state(3)
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.restore_or_initialize(second)
    assert read(batches, 5) == expected
    third, _ = state(4)
    with (
        rtf.Checkpointer(str(tmp_path)) as checkpointer,
        pytest.raises(rtf.DataMismatchError, match="_batch_size"),
    ):
        checkpointer.restore_or_initialize(third)


def test_an_empty_dataset_is_an_error() -> None:
    with pytest.raises(rtf.ResumableError, match="no batch"):
        next(rtf.ResumableIterator(tf.data.Dataset.range(0)))


def test_python_in_the_pipeline_is_an_error_with_advice() -> None:
    data = tf.data.Dataset.range(4).map(
        lambda i: tf.numpy_function(lambda n: np.int64(n), [i], tf.int64)
    )
    with pytest.raises(rtf.ResumableError, match="PyDataset"):
        next(rtf.ResumableIterator(data))


class TestWatchedSteps:
    """The first save names what a step uses and the state does not hold."""

    def test_a_forgotten_variable(self) -> None:
        weight, forgotten = tf.Variable(1.0), tf.Variable(0.0, name="forgotten")

        @tf.function
        def step() -> None:
            weight.assign_add(1.0)
            forgotten.assign_add(1.0)

        state = rtf.TrainState(weight=weight)
        state.watch(step)
        step()
        with pytest.raises(rtf.ResumableError, match="forgotten"):
            state.capture()

    def test_random_numbers_of_the_graph(self) -> None:
        weight = tf.Variable(1.0)

        @tf.function
        def step() -> None:
            weight.assign_add(tf.random.uniform([]))

        state = rtf.TrainState(weight=weight)
        state.watch(step)
        step()
        with pytest.raises(rtf.ResumableError, match="RandomUniform"):
            state.capture()

    def test_generators_of_the_state_are_fine(self) -> None:
        weight, generator = tf.Variable(1.0), tf.random.Generator.from_seed(1)

        @tf.function
        def step() -> None:
            weight.assign_add(generator.uniform([]))

        state = rtf.TrainState(weight=weight, generator=generator, global_random=False)
        state.watch(step)
        step()
        assert len(state.capture().leaves()) == 2

    def test_a_plain_function_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"no tf\.function"):
            rtf.TrainState(weight=tf.Variable(1.0)).watch(lambda: None)
