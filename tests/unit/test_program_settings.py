"""A changed optimizer of the program is said, with both values; a schedule is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from helpers.keras_programs import numbers

import resumable_tf as rtf
from resumable_tf.training.keras.one_fit import forget_completed

keras = tf.keras
# Of Keras' own LearningRateScheduler.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


@pytest.fixture(autouse=True)
def _as_a_new_process() -> Iterator[None]:
    forget_completed()
    yield


def train(run_dir: Path, optimizer: Any, *, epochs: int, others: Any = ()) -> Any:
    forget_completed()
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    resume = rtf.ResumeCallback(str(run_dir), verbose=0)
    arguments = {"epochs": epochs, "batch_size": 5, "verbose": 0}
    model.fit(numbers(20, 4), numbers(20, 1), callbacks=[*others, resume], **arguments)
    return model


def test_a_changed_learning_rate_is_said_with_both_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, keras.optimizers.Adam(0.01), epochs=1)
    assert not caplog.text
    model = train(tmp_path, keras.optimizers.Adam(0.0001), epochs=2)
    assert "optimizer.learning_rate: begun with 0.01" in caplog.text
    assert "this program has 0.0001; 0.01 goes on, as saved" in caplog.text
    assert "LearningRateScheduler(lambda epoch: 0.0001)" in caplog.text
    assert float(model.optimizer.learning_rate.numpy()) == pytest.approx(0.01)
    # The remedy works, and then there is nothing more to say.
    other = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0001)
    optimizer = keras.optimizers.Adam(0.0001)
    model = train(tmp_path, optimizer, epochs=3, others=[other])
    assert float(model.optimizer.learning_rate.numpy()) == pytest.approx(0.0001)
    caplog.clear()
    optimizer = keras.optimizers.Adam(0.0001)
    train(tmp_path, optimizer, epochs=4, others=[other])
    assert not caplog.text


def test_another_beta_is_said_to_take_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, keras.optimizers.Adam(0.01, beta_1=0.9), epochs=1)
    train(tmp_path, keras.optimizers.Adam(0.01, beta_1=0.5), epochs=2)
    assert "beta_1: begun with 0.9, this program has 0.5, which takes" in caplog.text
    assert "learning_rate" not in caplog.text


def test_what_a_schedule_or_a_callback_moves_is_no_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
    for epochs in (1, 2, 3):
        optimizer = keras.optimizers.SGD(0.01)
        train(tmp_path / "callback", optimizer, epochs=epochs, others=[halve])
    for epochs in (1, 2):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
        train(tmp_path / "decay", keras.optimizers.SGD(schedule), epochs=epochs)
    assert not caplog.text


def test_another_schedule_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for epochs, rate in ((1, 0.1), (2, 0.2)):
        schedule = keras.optimizers.schedules.ExponentialDecay(rate, 3, 0.5)
        train(tmp_path, keras.optimizers.SGD(schedule), epochs=epochs)
    assert "initial_learning_rate: begun with 0.1" in caplog.text
    assert "0.2, which takes effect" in caplog.text
