"""Callbacks of a `fit` draw from the global generators as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import resumable_tf as rtf
from resumable_tf.training.keras.one_fit import forget_completed

keras = tf.keras


class Draws(keras.callbacks.Callback):
    """Draws when training begins and after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def on_train_begin(self, logs: Any = None) -> None:
        tf.random.normal([])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.drawn.append(float(tf.random.normal([])) + float(np.random.normal()))


def fitted(run_dir: Path, *, seed: int, epochs: int) -> tuple[list[float], float]:
    forget_completed()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    draws = Draws()
    model.fit(
        np.ones((4, 2), np.float32),
        np.ones((4, 1), np.float32),
        epochs=epochs,
        batch_size=2,
        verbose=0,
        callbacks=[draws, rtf.ResumeCallback(str(run_dir))],
    )
    # What a later fit of the program draws its seeds from.
    return draws.drawn, float(tf.random.normal([])) + float(np.random.normal())


def test_an_epoch_goes_on_in_the_sequence(tmp_path: Path) -> None:
    drawn, after = fitted(tmp_path / "a", seed=1, epochs=3)
    first, _ = fitted(tmp_path / "b", seed=1, epochs=1)
    assert first == drawn[:1]
    assert fitted(tmp_path / "b", seed=2, epochs=3) == (drawn, after)


def test_a_finished_fit_leaves_what_it_left_when_it_ran(tmp_path: Path) -> None:
    drawn, after = fitted(tmp_path, seed=1, epochs=2)
    assert fitted(tmp_path, seed=2, epochs=2) == (drawn, after)
