"""Ways to call `fit` beyond the programs of `keras_programs`.

`VARIANTS[name]()` returns a `Program`; each stands for one way of giving data, one kind
of callback or one kind of model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from helpers.keras_programs import IS_KERAS_3, Program, numbers, shuffled

keras = tf.keras
layers = keras.layers


def small_model(**compiled: Any) -> Any:
    """Returns a compiled model with dropout and batch statistics."""
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6, activation="tanh"),
            layers.Dropout(0.2),
            layers.BatchNormalization(),
            layers.Dense(1),
        ]
    )
    model.compile(
        **{"optimizer": "adam", "loss": "mse", "metrics": ["mae"], **compiled}
    )
    return model


def arrays(count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    return numbers(count, 5), numbers(count, 1, seed=9)


class Rows(keras.utils.PyDataset if IS_KERAS_3 else keras.utils.Sequence):
    """Python data that shuffles itself at each epoch's end and adds noise."""

    def __init__(self) -> None:
        if IS_KERAS_3:
            super().__init__()
        self.x, self.y = arrays()
        self.order = np.arange(len(self.x))

    def __len__(self) -> int:
        return math.ceil(len(self.x) / 4)

    def __getitem__(self, index: int) -> Any:
        rows = self.order[index * 4 : index * 4 + 4]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self) -> None:
        np.random.shuffle(self.order)


class Decisions(keras.callbacks.Callback):
    """A user's callback with everything that one may keep in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(3)
        self.seen: dict[str, list[float]] = {}
        self.total = tf.Variable(0.0)
        self.mean = keras.metrics.Mean()
        self.best: float | None = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.total.assign_add(float(logs["loss"]))
        self.mean.update_state(float(logs["loss"]))
        self.seen.setdefault("draws", []).append(float(self.generator.normal()))
        if self.best is None or logs["loss"] < self.best:
            self.best = float(logs["loss"])
        rate = 0.01 * (1 + 0.1 * float(self.generator.uniform()))
        self.model.optimizer.learning_rate = rate

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["draws"] = float(np.sum(self.seen["draws"]))
        logs["total"] = float(self.total.numpy()) + float(self.mean.result())


class Late(keras.Model):
    """A model without a known input, whose layers are built by the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = layers.Dense(4, activation="relu")
        self.dropout = layers.Dropout(0.3)
        self.outer = layers.Dense(1)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.outer(self.dropout(self.inner(x), training=training))


def numpy_arrays() -> Program:
    x, y = arrays()
    arguments = {"x": x, "y": y, "batch_size": 4, "epochs": 3, "validation_split": 0.2}
    return Program(small_model(), arguments)


def py_dataset() -> Program:
    return Program(small_model(), {"x": Rows(), "epochs": 3, "shuffle": False})


def py_dataset_shuffled() -> Program:
    return Program(small_model(), {"x": Rows(), "epochs": 3, "shuffle": True})


def steps_per_epoch() -> Program:
    data = shuffled(*arrays()).repeat()
    return Program(small_model(), {"x": data, "epochs": 4, "steps_per_epoch": 5})


def steps_per_execution() -> Program:
    arguments = {"x": shuffled(*arrays()), "epochs": 3}
    return Program(small_model(steps_per_execution=3), arguments)


def unknown_length() -> Program:
    data = tf.data.Dataset.from_tensor_slices(arrays()).shuffle(8)
    data = data.filter(lambda x, y: x[0] < 1.0).batch(4)
    return Program(small_model(), {"x": data, "epochs": 4})


def two_shuffles() -> Program:
    data = tf.data.Dataset.from_tensor_slices(arrays()).shuffle(8).batch(4)
    return Program(small_model(), {"x": data.shuffle(3).prefetch(2), "epochs": 4})


def repeated() -> Program:
    """Each epoch passes twice over the data, in two orders."""
    data = shuffled(*arrays()).repeat(2)
    return Program(small_model(), {"x": data, "epochs": 3})


def late_model() -> Program:
    model = Late()
    model.compile("adam", "mse", metrics=["mae"])
    return Program(model, {"x": shuffled(*arrays()), "epochs": 3})


def own_callback() -> Program:
    arguments = {"x": shuffled(*arrays()), "epochs": 3}
    return Program(small_model(), arguments, [Decisions()])


def early_stopping() -> Program:
    callbacks = [
        keras.callbacks.EarlyStopping(
            "val_loss", patience=1, min_delta=10.0, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=10.0),
    ]
    arguments = {"x": shuffled(*arrays()), "epochs": 6, "validation_data": arrays(8)}
    return Program(small_model(), arguments, callbacks)


def validating(validation: Any, **more: Any) -> Program:
    """Returns a program whose `val_` metrics depend on the order of summation."""
    arguments = {"x": shuffled(*arrays()), "epochs": 5, "validation_data": validation}
    callbacks = [keras.callbacks.ReduceLROnPlateau("val_loss", patience=1)]
    return Program(small_model(), arguments | more, callbacks)


def validation_reshuffled() -> Program:
    return validating(shuffled(*arrays(31), batch_size=3))


def validation_repeated() -> Program:
    """Two passes in one validation, of which the second is cut off."""
    data = tf.data.Dataset.from_tensor_slices(arrays(13)).shuffle(13)
    data = data.repeat(2).batch(3)
    return validating(data, validation_steps=7)


def validation_cached() -> Program:
    data = tf.data.Dataset.from_tensor_slices(arrays(23)).shuffle(23).cache().batch(3)
    return validating(data)


def validation_filtered() -> Program:
    """Of unknown length."""
    data = tf.data.Dataset.from_tensor_slices(arrays(31)).shuffle(31)
    data = data.filter(lambda x, y: x[0] < 1.0)
    return validating(data.batch(3))


def generator() -> Program:
    def batches() -> Iterator[Any]:
        random = np.random.default_rng(2)
        x, y = arrays()
        while True:
            rows = random.integers(0, len(x), size=4)
            yield x[rows], y[rows]

    arguments = {"x": batches(), "epochs": 3, "steps_per_epoch": 6}
    return Program(small_model(), arguments)


def two_replicas() -> Program:
    """Needs two logical CPUs."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = small_model()
    data = shuffled(*arrays(32), batch_size=4)
    return Program(model, {"x": data, "epochs": 3})


VARIANTS: dict[str, Callable[[], Program]] = {
    "numpy_arrays": numpy_arrays,
    "py_dataset": py_dataset,
    "py_dataset_shuffled": py_dataset_shuffled,
    "steps_per_epoch": steps_per_epoch,
    "steps_per_execution": steps_per_execution,
    "unknown_length": unknown_length,
    "two_shuffles": two_shuffles,
    "repeated": repeated,
    "late_model": late_model,
    "own_callback": own_callback,
    "early_stopping": early_stopping,
    "validation_reshuffled": validation_reshuffled,
    "validation_repeated": validation_repeated,
    "validation_cached": validation_cached,
    "validation_filtered": validation_filtered,
    "generator": generator,
}
