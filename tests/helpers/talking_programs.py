"""Programs as users write them, whose whole output is looked at.

python -m helpers.talking_programs fit|loop RUN_DIR [--kill-at BATCH]
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import numpy as np
import tensorflow as tf

import resumable_tf as rtf

BATCHES, EPOCHS = 6, 3


def make_model() -> Any:
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input((4,)),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.Dense(8, activation="relu"),
            layers.Dense(1),
        ]
    )


def make_data() -> tf.data.Dataset:
    rows = np.random.default_rng(1).normal(size=(BATCHES * 2, 5)).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices((rows[:, :4], rows[:, 4:]))
    return data.shuffle(8, seed=3).batch(2)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_fit(run_dir: str, kill_at: int) -> None:
    model, batches = make_model(), [0]
    model.compile("adam", "mse", metrics=["mae"])

    def count(batch: int, logs: Any = None) -> None:
        batches[0] += 1
        if batches[0] == kill_at:
            wait_for_saves()
            kill()

    resume = rtf.ResumeCallback(run_dir, save_every_steps=2)
    callbacks = [tf.keras.callbacks.LambdaCallback(on_train_batch_end=count), resume]
    validation = make_data().take(2)
    model.fit(
        make_data(),
        validation_data=validation,
        epochs=EPOCHS,
        callbacks=callbacks,
        shuffle=False,
        verbose=2,
    )


def wait_for_saves() -> None:
    """Lets a kill come when the save before is committed."""
    for thread in threading.enumerate():
        if thread.name.startswith("save-"):
            thread.join()


def run_loop(run_dir: str, kill_at: int) -> None:
    model = make_model()
    optimizer = tf.keras.optimizers.Adam()
    data = rtf.ResumableIterator(make_data().repeat())
    state = rtf.TrainState(model=model, optimizer=optimizer, data=data)

    @tf.function
    def train_step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        weights = model.trainable_variables
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))

    with rtf.Checkpointer(run_dir, every_steps=2) as checkpointer:
        checkpointer.restore_or_initialize(state)
        for x, y in data:
            train_step(x, y)
            state.step += 1
            checkpointer.maybe_save(state)
            if state.step == kill_at:
                checkpointer.wait()
                kill()
            if state.step == BATCHES * EPOCHS:
                break


if __name__ == "__main__":
    kind, directory, *rest = sys.argv[1:]
    at = int(rest[1]) if rest else 0
    {"fit": run_fit, "loop": run_loop}[kind](directory, at)
