"""Steps of the user's own may return anything as a loss, and are saved and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.fit_runs import Interrupted, fit, interrupt_after
from helpers.keras_programs import Program, fresh, numbers

import resumable_tf as rtf
from resumable_tf.training.keras.save_settings import finite_metrics, is_finite

keras = tf.keras

LOSSES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "vector": lambda rows: {"loss": rows},
    "none": lambda rows: {"other": tf.reduce_mean(rows)},
    "half": lambda rows: {"loss": tf.cast(tf.reduce_mean(rows), tf.bfloat16)},
    "metric is NaN": lambda rows: {"loss": rows[0], "odd": rows[0] * np.nan},
    "integer": lambda rows: {"loss": tf.cast(rows[0], tf.int32)},
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_that_returns_another_loss_is_resumed(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.top = keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.top(x)

        def train_step(self, data: Any) -> dict[str, Any]:
            x, y = data
            with tf.GradientTape() as tape:
                rows = tf.reduce_mean((self(x) - y) ** 2, axis=1)
                loss = tf.reduce_mean(rows)
            weights = self.trainable_weights
            gradients = tape.gradient(loss, weights)
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
            return LOSSES[name](rows)

    def make() -> Program:
        model = Own()
        model.compile("adam", run_eagerly=False)
        arguments = {"x": numbers(24, 5), "y": numbers(24, 1), "batch_size": 4}
        return Program(model, {**arguments, "epochs": 2})

    plain = fresh(make)
    fit(plain, [])
    resume = rtf.ResumeCallback(str(tmp_path), save_every_steps=2)
    with pytest.raises(Interrupted):
        fit(fresh(make), [resume, interrupt_after(5)])
    made = fresh(make)
    fit(made, [rtf.ResumeCallback(str(tmp_path), save_every_steps=2)])
    assert "resumed from step 4" in capsys.readouterr().out
    for one, other in zip(
        made.model.get_weights(), plain.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_loss_with_one_part_that_is_not_finite_is_not_saved() -> None:
    nan = float("nan")
    assert is_finite({})
    assert is_finite(None)
    assert is_finite({"loss": {"a": 1.0, "b": tf.zeros((2, 3))}})
    assert is_finite({"loss": 1, "mae": nan})
    assert not is_finite({"loss": np.array([1.0, np.inf])})
    assert not is_finite({"loss": {"a": 1.0, "b": [nan]}})
    assert not is_finite({"loss": tf.constant(nan, tf.bfloat16)})
    assert finite_metrics({"loss": {"a": 1.0}, "mae": 2}) == {"mae": 2.0}
