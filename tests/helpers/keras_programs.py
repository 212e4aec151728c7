"""Small programs after the kinds of the Keras examples, each a model and its `fit`.

    program = PROGRAMS["cnn_augmented"]()
    program.model.fit(**program.arguments, callbacks=[...])

python -m helpers.keras_programs NAME --run-dir DIR [--kill-at BATCH]
    trains one with `ResumeCallback`, and writes DIR/result.npz
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from helpers.starts import start_over_if_asked

import resumable_tf as rtf
from resumable_tf.training.keras.one_fit import forget_completed

keras = tf.keras
layers = keras.layers
SEED = 7
IS_KERAS_3 = hasattr(keras, "ops")


@dataclass
class Program:
    """A compiled model and the arguments of its `fit`."""

    model: Any
    arguments: dict[str, Any]
    callbacks: list[Any] = field(default_factory=list)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns normally distributed float32 numbers."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=shape).astype(np.float32)


def labels(count: int, num_classes: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, num_classes, size=count)


def shuffled(*arrays: Any, batch_size: int = 4) -> tf.data.Dataset:
    """Returns a dataset that is reshuffled each epoch, with a partial last batch."""
    dataset = tf.data.Dataset.from_tensor_slices(arrays)
    return dataset.shuffle(16).batch(batch_size).prefetch(2)


def mlp() -> Program:
    """Dropout, BatchNorm, metrics, class weights, validation; a tf.data pipeline."""
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.3),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return Program(
        model,
        {
            "x": shuffled(numbers(30, 5), labels(30)),
            "epochs": 3,
            "validation_data": (numbers(8, 5, seed=3), labels(8)),
            "class_weight": {0: 1.0, 1: 2.0, 2: 0.5},
        },
        [keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=1.0)],
    )


def cnn_augmented() -> Program:
    """Random augmentation layers before a convolution; NumPy arrays."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.RandomFlip("horizontal"),
            layers.RandomTranslation(0.2, 0.2),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    images = numbers(22, 8, 8, 1)
    arguments = {"x": images, "y": labels(22), "batch_size": 4, "epochs": 3}
    return Program(model, arguments)


def stateful_lstm() -> Program:
    """A recurrent state that runs through the batches, in order."""
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(4, 6, 2)),
            layers.LSTM(5, stateful=True, recurrent_dropout=0.2),
            layers.Dense(1),
        ]
    )
    model.compile("rmsprop", "mse")
    data = tf.data.Dataset.from_tensor_slices((numbers(28, 6, 2), numbers(28, 1)))
    return Program(model, {"x": data.batch(4, drop_remainder=True), "epochs": 3})


def text_classifier() -> Program:
    """A preprocessing layer that was adapted, and an embedding; early stopping."""
    words = ["red", "green", "blue", "dark", "light", "warm", "cold"]
    generator = np.random.default_rng(4)
    texts = [" ".join(generator.choice(words, size=6)) for _ in range(24)]
    vectorize = layers.TextVectorization(output_mode="int", output_sequence_length=6)
    vectorize.adapt(texts)
    data = tf.data.Dataset.from_tensor_slices((texts, labels(24, 2)))
    data = data.shuffle(24).batch(4).map(lambda text, y: (vectorize(text), y))
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int64"),
            layers.Embedding(12, 4),
            layers.SpatialDropout1D(0.3),
            layers.GlobalMaxPooling1D(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy", metrics=["AUC"])
    stop = keras.callbacks.EarlyStopping(
        "loss", patience=1, min_delta=0.5, restore_best_weights=True
    )
    return Program(model, {"x": data, "epochs": 4}, [stop])


class Gan(keras.Model):
    """Two networks and two optimizers in a `train_step` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
        self.critic = keras.Sequential(
            [keras.Input((4,)), layers.Dropout(0.4), layers.Dense(1)]
        )
        self.random = keras.random.SeedGenerator(5) if IS_KERAS_3 else None
        self.noise = tf.random.Generator.from_seed(5)
        self.loss_metric = keras.metrics.Mean(name="critic_loss")

    def compile(self) -> None:
        super().compile()
        self.critic_optimizer = keras.optimizers.Adam(0.01)
        self.generator_optimizer = keras.optimizers.Adam(0.02)
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)

    @property
    def metrics(self) -> list[Any]:
        return [self.loss_metric]

    def draw(self, count: Any) -> tf.Tensor:
        if IS_KERAS_3:
            return keras.random.normal((count, 3), seed=self.random)
        return self.noise.normal((count, 3))

    def train_step(self, real: Any) -> dict[str, Any]:
        count = tf.shape(real)[0]
        fake = self.generator(self.draw(count))
        both, truth = tf.concat([fake, real], 0), tf.concat([[1.0], [0.0]], 0)
        truth = tf.repeat(truth, [count, count])[:, None]
        with tf.GradientTape() as tape:
            loss = self.bce(truth, self.critic(both, training=True))
        weights = self.critic.trainable_weights
        gradients = tape.gradient(loss, weights)
        self.critic_optimizer.apply_gradients(zip(gradients, weights, strict=True))
        with tf.GradientTape() as tape:
            fooled = self.critic(self.generator(self.draw(count)), training=True)
            generator_loss = self.bce(tf.zeros_like(fooled), fooled)
        weights = self.generator.trainable_weights
        gradients = tape.gradient(generator_loss, weights)
        self.generator_optimizer.apply_gradients(zip(gradients, weights, strict=True))
        self.loss_metric.update_state(loss)
        return {"critic_loss": self.loss_metric.result()}


def gan() -> Program:
    model = Gan()
    model.compile()
    data = tf.data.Dataset.from_tensor_slices(numbers(26, 4)).shuffle(26).repeat()
    arguments = {"x": data.batch(4), "epochs": 3, "steps_per_epoch": 5}
    return Program(model, arguments)


def transformer_mixed() -> Program:
    """Attention in mixed precision with a loss scale; several steps in one call."""
    policy = keras.mixed_precision.Policy("mixed_float16")
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, dtype=policy)(inputs)
    attended = layers.MultiHeadAttention(2, 4, dropout=0.2, dtype=policy)(x, x)
    x = layers.LayerNormalization(dtype=policy)(x + attended)
    outputs = layers.Dense(1, dtype="float32")(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, outputs)
    optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.Adam(0.01))
    model.compile(optimizer, "mse", steps_per_execution=1)
    ids = np.random.default_rng(2).integers(0, 20, size=(30, 6))
    return Program(model, {"x": shuffled(ids, numbers(30, 1)), "epochs": 3})


def ema() -> Program:
    """Averaged weights, swapped in for validation; a schedule by epoch."""
    model = keras.Sequential([keras.Input((5,)), layers.Dense(6), layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True)
    model.compile(optimizer, "mse", metrics=["mae"])
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.7)
    callbacks = [schedule]
    if IS_KERAS_3:
        callbacks.append(keras.callbacks.SwapEMAWeights())
    validation = (numbers(8, 5, seed=3), numbers(8, 1, seed=4))
    data = shuffled(numbers(30, 5), numbers(30, 1))
    arguments = {"x": data, "epochs": 3, "validation_data": validation}
    return Program(model, arguments, callbacks)


PROGRAMS: dict[str, Callable[[], Program]] = {
    "mlp": mlp,
    "cnn_augmented": cnn_augmented,
    "stateful_lstm": stateful_lstm,
    "text_classifier": text_classifier,
    "gan": gan,
    "transformer_mixed": transformer_mixed,
    "ema": ema,
}


def fresh(make: Callable[[], Program]) -> Program:
    """Returns a program as a new process would make it."""
    forget_completed()
    keras.backend.clear_session()
    if not IS_KERAS_3:
        keras.backend.experimental.enable_tf_random_generator()
    keras.utils.set_random_seed(SEED)
    return make()


def build(name: str) -> Program:
    """Returns the program of that name, as a new process would make it."""
    return fresh(PROGRAMS[name])


def result_of(model: Any, history: Any) -> dict[str, np.ndarray]:
    """Returns every variable and the history, as arrays."""
    found = {f"w{i}": v.numpy() for i, v in enumerate(model.variables)}
    optimizers = ("optimizer", "critic_optimizer", "generator_optimizer")
    for name in optimizers:
        variables = getattr(getattr(model, name, None), "variables", [])
        variables = variables() if callable(variables) else variables
        found |= {f"{name}{i}": v.numpy() for i, v in enumerate(variables)}
    found |= {f"h_{key}": np.array(v) for key, v in history.history.items()}
    return found | {"h_epoch": np.array(history.epoch)}


def first_batch(begun: list[tuple[int, int]]) -> Any:
    """Returns a callback that notes epoch and batch of the first batch of a `fit`."""
    epochs = [0]

    def begin_epoch(epoch: int, logs: Any = None) -> None:
        epochs[0] = epoch

    def begin_batch(batch: int, logs: Any = None) -> None:
        if not begun:
            begun.append((epochs[0], int(batch)))

    return keras.callbacks.LambdaCallback(
        on_epoch_begin=begin_epoch, on_batch_begin=begin_batch
    )


def has_checkpoint(run_dir: str) -> bool:
    return any(Path(run_dir, "checkpoints").glob("ckpt-*.manifest.json"))


def count_batches(path: str, kill_at: int | None, *, pause_secs: float = 0) -> Any:
    """Returns a callback that notes each batch in a file, and kills this process.

    The kill waits until there is a checkpoint: before the first one it would show
    nothing of a resume.

    Args:
        path: Gets one byte a batch, over all processes; beside it are checkpoints.
        kill_at: Batches of this process after which it is killed; None never.
        pause_secs: Makes each batch last longer.
    """
    batches = [0]

    def count(batch: int, logs: Any = None) -> None:
        batches[0] += 1
        with open(path, "ab") as file:
            file.write(b".")
        time.sleep(pause_secs)
        if batches[0] == kill_at:
            while not has_checkpoint(os.path.dirname(path)):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    return keras.callbacks.LambdaCallback(on_batch_end=count)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=PROGRAMS)
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--save-every-steps", type=int, default=3)
    parser.add_argument("--kill-at", type=int)
    train(parser.parse_args())


def train(args: argparse.Namespace) -> None:
    """Trains; `result.npz` says how it ended, and where this start began."""
    start_over_if_asked()
    os.makedirs(args.run_dir, exist_ok=True)
    tf.config.experimental.enable_op_determinism()
    program = build(args.name)
    begun: list[tuple[int, int]] = []
    callbacks = [
        *program.callbacks,
        first_batch(begun),
        rtf.ResumeCallback(args.run_dir, save_every_steps=args.save_every_steps),
        count_batches(f"{args.run_dir}/batches", args.kill_at),
    ]
    history = program.model.fit(**program.arguments, callbacks=callbacks, verbose=0)
    result = result_of(program.model, history)
    np.savez(f"{args.run_dir}/result.npz", **result, begun_at=begun[0])


if __name__ == "__main__":
    main()
