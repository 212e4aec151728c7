"""Run as a program: saves on two replicas, restores, and compares what follows.

    python -m helpers.replica_check DIRECTORY [--legacy-optimizer]

It needs a process of its own, as logical devices are made before TensorFlow starts
and `TF_USE_LEGACY_KERAS` is read at import. Prints "exact" if all is well.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import tensorflow as tf
from helpers.starts import start_over_if_asked

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.errors import StateError
from resumable_tf.state import TrainState

LEGACY = os.environ.get("TF_USE_LEGACY_KERAS") == "1"


def build(strategy: Any) -> tuple[TrainState, Any]:
    with strategy.scope():
        model = tf.keras.Sequential(
            [
                tf.keras.layers.Input((4,)),
                tf.keras.layers.Dense(3),
                tf.keras.layers.Dropout(0.5),
                tf.keras.layers.BatchNormalization(),
                tf.keras.layers.Dense(1),
            ]
        )
        if "--legacy-optimizer" in sys.argv:
            optimizer = tf.keras.optimizers.legacy.Adam(0.1)
        else:
            optimizer = tf.keras.optimizers.Adam(0.1)
        total = tf.Variable(
            0.0,
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )
    return TrainState(model=model, optimizer=optimizer, total=total), strategy


def train(state: TrainState, strategy: Any, num_steps: int) -> list[float]:
    model, optimizer = state.trackables["model"], state.trackables["optimizer"]
    inputs = tf.reshape(tf.range(32, dtype=tf.float32), (8, 4)) / 32.0

    @tf.function
    def step() -> Any:
        def on_replica() -> Any:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            shifted = inputs * (1.0 + tf.cast(replica, tf.float32))
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(shifted, training=True) - 1.0) ** 2)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(
                zip(gradients, model.trainable_variables, strict=True)
            )
            state.trackables["total"].assign_add(loss)
            return loss

        return strategy.reduce("SUM", strategy.run(on_replica), axis=None)

    losses = [float(step()) for _ in range(num_steps)]
    state.step += num_steps
    return losses


def components(state: TrainState) -> list[Any]:
    variables = [*state.trackables["model"].variables, state.trackables["total"]]
    values = []
    for variable in variables:
        inner = getattr(variable, "value", variable)
        inner = variable if callable(inner) else inner
        values += [part.numpy() for part in getattr(inner, "values", [inner])]
    return values


def check_hidden_seeds_are_refused() -> None:
    """Without the generator, tf_keras draws dropout from a state nobody can save."""
    model = tf.keras.Sequential(
        [tf.keras.layers.Dense(1), tf.keras.layers.Dropout(0.5)]
    )
    model.build((None, 4))
    try:
        TrainState(model=model).inventory()
    except StateError as error:
        message = str(error)
    assert "enable_tf_random_generator" in message


def main() -> None:
    start_over_if_asked()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    if LEGACY:
        check_hidden_seeds_are_refused()
        tf.keras.backend.experimental.enable_tf_random_generator()
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    state, strategy = build(two)
    with Checkpointer(sys.argv[1]) as checkpointer:
        train(state, strategy, 3)
        info = checkpointer.save(state).result()
        expected = train(state, strategy, 3)
    assert info.manifest.topology == {"num_replicas": 2}
    again, strategy = build(two)
    Checkpointer(sys.argv[1]).restore_or_initialize(again)
    # Its initial values and seeds were others, so starting over would differ too.
    assert again.step == 3
    assert train(again, strategy, 3) == expected
    for one, other in zip(components(state), components(again), strict=True):
        np.testing.assert_array_equal(one, other)
    single, _ = build(tf.distribute.OneDeviceStrategy("CPU:0"))
    Checkpointer(sys.argv[1]).restore_or_initialize(single)
    reader = tf.train.load_checkpoint(info.path)
    total = reader.get_tensor("total/.ATTRIBUTES/VARIABLE_VALUE")
    assert float(single.trackables["total"]) == float(total)
    print("exact")


if __name__ == "__main__":
    main()
