"""Training steps for `resumable-tf tpu check`, good ones and ones a TPU can't run."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from resumable_tf.training.keras.training_step import _part_of

WIDTH = 8


def make_step(batch_size: int = 16) -> Any:
    """A small Keras model with dropout and batch normalization, as on a TPU."""
    strategy = tf.distribute.get_strategy()
    model = tf.keras.Sequential(
        [
            tf.keras.Input((WIDTH,)),
            tf.keras.layers.Dense(16, activation="relu"),
            tf.keras.layers.Dropout(0.1),
            tf.keras.layers.BatchNormalization(),
            tf.keras.layers.Dense(4),
        ]
    )
    optimizer = tf.keras.optimizers.Adam(1e-3)
    loss_of = tf.keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="none"
    )

    def replica_step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(loss_of(y, model(x, training=True))) / batch_size
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    @tf.function
    def step(x: Any, y: Any) -> Any:
        losses = strategy.run(replica_step, args=(x, y))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    rows = batch_size // strategy.num_replicas_in_sync
    return step, (tf.TensorSpec([rows, WIDTH]), tf.TensorSpec([rows], tf.int32))


def make_step_of_fit() -> Any:
    """A replica takes its rows of the global batch, as inside `model.fit`."""

    def replica_step(x: Any) -> Any:
        mine = _part_of(x, tf.distribute.get_replica_context())
        return tf.reshape(mine, [-1, WIDTH // 2, 2])

    return _running(replica_step)


def make_step_of_fixed_size() -> Any:
    return make_step()


def _running(function: Any) -> Any:
    strategy = tf.distribute.get_strategy()

    def step(x: Any) -> Any:
        return strategy.run(function, args=(x,))

    return step, tf.TensorSpec([WIDTH, WIDTH])


def make_step_with_python() -> Any:
    def replica_step(x: Any) -> Any:
        y = tf.py_function(lambda value: value, [x], tf.float32)  # the Python call
        if tf.reduce_sum(x) > 0:
            tf.print("large")  # the print in a branch
        return y

    return _running(replica_step)


def make_step_of_unknown_length() -> Any:
    def replica_step(x: Any) -> Any:
        return tf.boolean_mask(x, x[:, 0] > 0)  # the mask

    return _running(replica_step)


def make_step_too_large() -> Any:
    """Its result alone is 16 GiB."""

    def replica_step(x: Any) -> Any:
        return tf.broadcast_to(x[0, 0], [1 << 16, 1 << 16])

    return _running(replica_step)


def make_step_without_run() -> Any:
    return (lambda x: x * 2), tf.TensorSpec([WIDTH, WIDTH])


def make_step_with_two_runs() -> Any:
    strategy = tf.distribute.get_strategy()

    def first(x: Any) -> Any:
        return x

    def second(x: Any) -> Any:
        return x + 1

    def step(x: Any) -> Any:
        return strategy.run(second, args=(strategy.run(first, args=(x,)),))

    return step, tf.TensorSpec([WIDTH, WIDTH])


def make_step_with_outer_tensor() -> Any:
    strategy = tf.distribute.get_strategy()

    def step(x: Any) -> Any:
        total = tf.reduce_sum(x)
        return strategy.run(lambda y: y / total, args=(x,))

    return step, tf.TensorSpec([WIDTH, WIDTH])


def make_step_in_a_loop() -> Any:
    """Runs replicas from a loop over tensors, and counts what has been traced."""
    strategy = tf.distribute.get_strategy()
    state = tf.Variable(tf.zeros([WIDTH, WIDTH]))

    def replica_step(x: Any) -> Any:
        context = tf.distribute.get_replica_context()
        number = tf.cast(context.replica_id_in_sync_group, tf.float32)
        mean = context.all_reduce(tf.distribute.ReduceOp.MEAN, x + number)
        state.assign_add(mean)
        return tf.reduce_sum(mean)

    @tf.function
    def step(x: Any) -> Any:
        total = tf.constant(0.0)
        for _ in tf.range(3):
            total += strategy.run(replica_step, args=(x,))
        return total

    return step, tf.TensorSpec([WIDTH, WIDTH])


def make_nothing() -> Any:
    return os.getpid()
