"""Programs for the audit: some are exact, in each of the others one leak is planted.

python tests/helpers/leaky_programs.py NAME       # RESUMABLE_TF_RUN_DIR says where
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import resumable_tf as rtf

RUN_DIR = os.environ.get("RESUMABLE_TF_RUN_DIR", "")
NUM_ROWS, BATCH_SIZE, EVERY_STEPS = 48, 8, 5
keras = tf.keras


def rows() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(NUM_ROWS, 4)).astype(np.float32)
    return features, features[:, :1] * 2


def dataset(*, seed: int | None = 3, shuffles: bool = True) -> Any:
    found = tf.data.Dataset.from_tensor_slices(rows())
    return (found.shuffle(NUM_ROWS, seed) if shuffles else found).batch(BATCH_SIZE)


@dataclass
class Parts:
    """What a loop is made of; a program changes some of it."""

    model: Any
    optimizer: Any
    state: rtf.TrainState
    batches: Any


def make_model(*extra: Any) -> Any:
    first, last = (keras.initializers.GlorotUniform(seed=seed) for seed in (1, 2))
    dense = keras.layers.Dense(3, activation="tanh", kernel_initializer=first)
    output = keras.layers.Dense(1, kernel_initializer=last)
    return keras.Sequential([keras.Input((4,)), dense, *extra, output])


def make_parts(*extra: Any, data: Any = None, **objects: Any) -> Parts:
    model = make_model(*extra)
    optimizer = keras.optimizers.Adam(0.01)
    batches = rtf.ResumableIterator(dataset() if data is None else data)
    state = rtf.TrainState(model=model, optimizer=optimizer, data=batches, **objects)
    return Parts(model, optimizer, state, batches)


def update(parts: Parts, batch: Any, scale: Any = 1.0) -> Any:
    """One step by hand; the gradients are scaled."""
    features, targets = batch
    with tf.GradientTape() as tape:
        error = parts.model(features, training=True) - targets
        loss = tf.reduce_mean(error**2)
    variables = parts.model.trainable_variables
    gradients = [g * scale for g in tape.gradient(loss, variables)]
    parts.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return loss


def train_with_closure_counter(run_dir: str) -> None:
    """For the audit of a function."""
    assert run_dir == RUN_DIR
    keras.utils.set_random_seed(5)
    closure_counter()


def loop(parts: Parts, step: Callable[[Any], Any], next_batch: Any = None) -> None:
    """The loop of the README."""
    next_batch = next_batch or (lambda: next(parts.batches))
    with rtf.Checkpointer(RUN_DIR, every_steps=EVERY_STEPS) as checkpointer:
        checkpointer.restore_or_initialize(parts.state)
        while parts.state.step < 100:
            step(next_batch())
            parts.state.step += 1
            checkpointer.maybe_save(parts.state)


def exact_loop() -> None:
    """Dropout, a shuffle and Adam, all covered; a clock and a log that are not."""
    parts = make_parts(keras.layers.Dropout(0.5), keras.layers.BatchNormalization())
    began, losses = time.time(), []

    def step(batch: Any) -> None:
        losses.append((time.time() - began, update(parts, batch)))

    loop(parts, step)


def exact_fit() -> None:
    """A `fit` with everything that it can have."""
    model = make_model(keras.layers.Dropout(0.5), keras.layers.BatchNormalization())
    model.compile("adam", "mse", metrics=["mae"])
    resume = rtf.ResumeCallback(RUN_DIR, save_every_steps=EVERY_STEPS)
    stop = keras.callbacks.EarlyStopping("loss", patience=50)
    model.fit(dataset(), epochs=20, verbose=0, callbacks=[stop, resume])


def exact_fit_by_epochs() -> None:
    """Saves at the end of each epoch; validation, a metric and a schedule."""
    model = make_model(keras.layers.Dropout(0.5))
    model.compile("adam", "mse", metrics=["mae"])
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=1.0)
    model.fit(
        dataset(),
        epochs=20,
        verbose=0,
        validation_data=rows(),
        callbacks=[rtf.ResumeCallback(RUN_DIR), plateau],
    )


def dropout_seed() -> None:
    """The seed of a dropout is not part of the model."""
    parts = make_parts()
    noise = keras.random.SeedGenerator(11)

    def step(batch: Any) -> None:
        features, targets = batch
        update(parts, (keras.random.dropout(features, 0.5, seed=noise), targets))

    loop(parts, step)


def shuffle_without_seed() -> None:
    """Each start of the program has an order of its own."""
    parts = make_parts(data=dataset(seed=None))
    loop(parts, lambda batch: update(parts, batch))


def numpy_generator() -> None:
    """A random generator in a closure."""
    parts = make_parts()
    augment = np.random.default_rng(7)

    def step(batch: Any) -> None:
        features, targets = batch
        shift = augment.normal(size=features.shape).astype(np.float32)
        update(parts, (features + shift, targets))

    loop(parts, step)


def closure_counter() -> None:
    """A learning rate that depends on a counter in a closure."""
    parts = make_parts()
    num_calls = 0

    def step(batch: Any) -> None:
        nonlocal num_calls
        num_calls += 1
        update(parts, batch, scale=1.0 / num_calls)

    loop(parts, step)


def numpy_global() -> None:
    """NumPy's global generator, which is left alone."""
    np.random.seed(5)
    parts = make_parts(global_random=False)

    def step(batch: Any) -> None:
        update(parts, batch, scale=np.random.uniform())

    loop(parts, step)


def python_global() -> None:
    """Python's global generator, which is left alone."""
    random.seed(5)
    parts = make_parts(global_random=False)
    loop(parts, lambda batch: update(parts, batch, scale=random.random()))


def tensorflow_global() -> None:
    """TensorFlow's global generator, which is left alone."""
    tf.random.set_seed(5)
    parts = make_parts(global_random=False)
    loop(parts, lambda batch: update(parts, batch, scale=tf.random.uniform([])))


def metric_that_steers() -> None:
    """A metric that is not saved, and decides how far a step goes."""
    parts = make_parts()
    mean_loss = keras.metrics.Mean(name="mean_loss")

    def step(batch: Any) -> None:
        loss = update(parts, batch, scale=1.0 + mean_loss.result())
        mean_loss.update_state(loss)

    loop(parts, step)


def metric_beside() -> None:
    """A metric that is not saved, and only reported."""
    parts = make_parts()
    mean_loss = keras.metrics.Mean(name="mean_loss")
    loop(parts, lambda batch: mean_loss.update_state(update(parts, batch)))


def optimizer_slots() -> None:
    """The optimizer is not part of the state."""
    parts = make_parts()
    parts.state = rtf.TrainState(model=parts.model, data=parts.batches)
    parts.optimizer.build(parts.model.trainable_variables)
    loop(parts, lambda batch: update(parts, batch))


def batch_norm_statistics() -> None:
    """Only what is trained is part of the state."""
    parts = make_parts(keras.layers.BatchNormalization(name="norm"))
    holder = tf.Module()
    holder.weights = [v.value for v in parts.model.trainable_variables]
    optimizer = parts.optimizer
    optimizer.build(parts.model.trainable_variables)
    parts.state = rtf.TrainState(
        weights=holder, optimizer=optimizer, data=parts.batches
    )
    loop(parts, lambda batch: update(parts, batch))


def epoch_counter() -> None:
    """The epoch is counted in a global variable, and the learning rate follows it."""
    parts = make_parts()

    def step(batch: Any) -> None:
        COUNTERS["epoch"] += parts.batches.batch == 1
        update(parts, batch, scale=0.5 ** COUNTERS["epoch"])

    loop(parts, step)


COUNTERS = {"epoch": 0}


def saved_before_counting() -> None:
    """The state is saved before its step is counted."""
    parts = make_parts()
    order = [batch for _ in range(9) for batch in dataset(shuffles=False)]
    parts.state = rtf.TrainState(model=parts.model, optimizer=parts.optimizer)
    with rtf.Checkpointer(RUN_DIR, every_steps=EVERY_STEPS) as checkpointer:
        checkpointer.restore_or_initialize(parts.state)
        while parts.state.step < 50:
            update(parts, order[parts.state.step])
            checkpointer.maybe_save(parts.state)
            parts.state.step += 1


def batch_left_out() -> None:
    """A resume leaves one batch out."""
    parts = make_parts()
    parts.state = rtf.TrainState(model=parts.model, optimizer=parts.optimizer)
    with rtf.Checkpointer(RUN_DIR, every_steps=EVERY_STEPS) as checkpointer:
        found = checkpointer.restore_or_initialize(parts.state)
        begin = 0 if found is None else found.step + 1
        for batch in dataset().repeat().skip(begin):
            update(parts, batch)
            parts.state.step += 1
            checkpointer.maybe_save(parts.state)


def data_from_the_start() -> None:
    """Every start of the program begins with the first batch."""
    parts = make_parts()
    parts.state = rtf.TrainState(model=parts.model, optimizer=parts.optimizer)
    batches = iter(dataset().repeat())
    loop(parts, lambda batch: update(parts, batch), lambda: next(batches))


def shadow_weights() -> None:
    """An average of the weights that is not saved, and is trained towards."""
    parts = make_parts()
    shadow = [tf.Variable(v, name="shadow") for v in parts.model.trainable_variables]

    def step(batch: Any) -> None:
        update(parts, batch)
        for average, weight in zip(
            shadow, parts.model.trainable_variables, strict=True
        ):
            average.assign(0.9 * average + 0.1 * tf.convert_to_tensor(weight))
            weight.assign(0.99 * tf.convert_to_tensor(weight) + 0.01 * average)

    loop(parts, step)


def gradient_buffer() -> None:
    """Gradients are added up for three steps, in variables that are not saved."""
    parts = make_parts()
    variables = parts.model.trainable_variables
    pending = [tf.Variable(tf.zeros(v.shape), name="pending") for v in variables]

    def step(batch: Any) -> None:
        features, targets = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((parts.model(features) - targets) ** 2)
        for total, new in zip(pending, tape.gradient(loss, variables), strict=True):
            total.assign_add(new)
        if parts.state.step % 3 == 2:
            parts.optimizer.apply_gradients(zip(pending, variables, strict=True))
            for total in pending:
                total.assign(tf.zeros_like(total))

    loop(parts, step)


class Trainer:
    """Keeps its learning rate in an attribute."""

    def __init__(self) -> None:
        self.parts = make_parts()
        self.rate = 1.0

    def step(self, batch: Any) -> None:
        self.rate *= 0.9
        update(self.parts, batch, scale=self.rate)


def learning_rate() -> None:
    """The learning rate is set by hand, in an attribute of an object."""
    trainer = Trainer()
    loop(trainer.parts, trainer.step)


def loss_scale() -> None:
    """The scale of the loss grows, in a variable that is not saved."""
    parts = make_parts()
    scale = tf.Variable(1.0, name="loss_scale")

    def step(batch: Any) -> None:
        update(parts, batch, scale=scale)
        scale.assign(scale * 1.1)

    loop(parts, step)


def clock() -> None:
    """A clock decides how far a step goes."""
    parts = make_parts()
    loop(parts, lambda batch: update(parts, batch, scale=time.time() % 1))


def fit_counter() -> None:
    """A counter of a callback, hidden in a closure, sets the learning rate."""
    model = make_model()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    num_batches = 0

    def lower(batch: int, logs: Any) -> None:
        nonlocal num_batches
        num_batches += 1
        model.optimizer.learning_rate = 0.1 / num_batches

    callback = keras.callbacks.LambdaCallback(on_train_batch_begin=lower)
    resume = rtf.ResumeCallback(RUN_DIR, save_every_steps=EVERY_STEPS)
    model.fit(dataset(), epochs=20, verbose=0, callbacks=[callback, resume])


def fit_refused() -> None:
    """A callback changes what can't be stored; the first save refuses it by name."""

    class KeepsAFile(keras.callbacks.Callback):
        handle: Any = None

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.handle = (item for item in range(3))

    model = make_model()
    model.compile("sgd", "mse")
    resume = rtf.ResumeCallback(RUN_DIR, save_every_steps=EVERY_STEPS)
    model.fit(dataset(), epochs=20, verbose=0, callbacks=[KeepsAFile(), resume])


if __name__ == "__main__":
    name = sys.argv[1]
    if not hasattr(keras, "ops"):  # tf_keras
        keras.backend.experimental.enable_tf_random_generator()
    if name != "shuffle_without_seed":
        keras.utils.set_random_seed(5)
    globals()[name]()
