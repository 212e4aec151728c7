"""A loop that trains without counting is told so; one that counts in its way is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import resumable_tf as rtf
from resumable_tf.errors import UsageError


class Training:
    """One weight and an optimizer."""

    def __init__(self, tmp_path: Path) -> None:
        self.weight = tf.Variable(1.0)
        self.optimizer = tf.keras.optimizers.SGD(0.1)
        self.optimizer.build([self.weight])
        self.state = rtf.TrainState(weight=self.weight, optimizer=self.optimizer)
        self.checkpointer = rtf.Checkpointer(str(tmp_path), every_steps=2)
        self.checkpointer.restore_or_initialize(self.state)

    def train(self) -> None:
        self.optimizer.apply_gradients([(tf.constant(1.0), self.weight)])

    def saved(self) -> list[int]:
        self.checkpointer.close()
        return [info.step for info in self.checkpointer.checkpoints()]


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path)


def test_a_loop_that_never_counts_is_refused(training: Training) -> None:
    with pytest.raises(UsageError, match=r"state\.step is 0 .*state\.step \+= 1"):
        for _ in range(3):
            training.train()
            training.checkpointer.maybe_save(training.state)


def test_a_loop_without_an_optimizer_is_seen_by_its_data(tmp_path: Path) -> None:
    batches = rtf.ResumableIterator(tf.data.Dataset.range(9).batch(1))
    state = rtf.TrainState(weight=tf.Variable(1.0), data=batches)
    with rtf.Checkpointer(str(tmp_path), every_steps=2) as checkpointer:
        checkpointer.restore_or_initialize(state)
        with pytest.raises(UsageError, match=r"state\.step \+= 1"):
            for _ in range(3):
                next(batches)
                checkpointer.maybe_save(state)


def test_a_step_that_begins_anew_each_epoch_is_refused(training: Training) -> None:
    with pytest.raises(UsageError, match="went back from 3 to 1"):
        for _ in range(2):
            training.state.step = 0
            for _ in range(3):
                training.train()
                training.state.step += 1
                training.checkpointer.maybe_save(training.state)


def test_several_calls_a_step_are_no_error(training: Training) -> None:
    for _ in range(4):
        training.train()
        training.state.step += 1
        for _ in range(3):
            training.checkpointer.maybe_save(training.state)
    assert training.saved() == [2, 4]


def test_steps_that_leave_out_multiples_are_saved(training: Training) -> None:
    for _ in range(4):
        training.train()
        training.state.step += 3
        training.checkpointer.maybe_save(training.state)
    assert training.saved() == [6, 9, 12]


def test_going_back_by_a_restore_is_no_error(training: Training) -> None:
    for step in (2, 4):
        training.train()
        training.state.step = step
        training.checkpointer.maybe_save(training.state)
    training.checkpointer.restore(training.state, 2)
    training.train()
    training.state.step += 1
    training.checkpointer.maybe_save(training.state)
    assert training.state.step == 3


@pytest.mark.parametrize(
    "number", [np.int64(3), np.array(3), tf.constant(3), tf.Variable(3), 3]
)
def test_whole_numbers_of_any_library_are_taken(number: Any) -> None:
    state = rtf.TrainState(weight=tf.Variable(1.0))
    state.step = number
    assert type(state.step) is int
    assert state.step == 3


def test_the_optimizer_may_count(training: Training) -> None:
    for _ in range(4):
        training.train()
        training.state.step = training.optimizer.iterations
        training.checkpointer.maybe_save(training.state)
    assert training.saved() == [2, 4]


@pytest.mark.parametrize("number", [3.0, 2.5, True, "3", tf.constant(2.0), None])
def test_what_is_no_whole_number_is_refused(number: Any) -> None:
    state = rtf.TrainState(weight=tf.Variable(1.0))
    with pytest.raises(TypeError, match=r"state\.step=.* is no whole number"):
        state.step = number


def test_a_negative_step_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        rtf.TrainState(weight=tf.Variable(1.0)).step = -1
