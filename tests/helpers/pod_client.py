"""python -m helpers.pod_client ADDRESSES: one client of a `Pod`, checked from inside.

In its working directory there are records, and on each host the same. Prints "exact"
if every batch came from the hosts' own disks, as a single host gives it, and what was
saved of variables on the hosts came back through this process's own disk.
"""

from __future__ import annotations

import shutil
import sys
from typing import Any

import numpy as np
import tensorflow as tf
from helpers.pod_training import strategy_over_hosts
from helpers.tpu_pod import PRIVATE

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.data.dataset import RecordDataset
from resumable_tf.errors import DeviceError
from resumable_tf.state import TrainState
from resumable_tf.state.leaf import host_device
from resumable_tf.tpu.cluster import connect, initialise, resolve
from resumable_tf.tpu.machine import TpuSettings
from resumable_tf.training.step import StepSettings, TrainSteps

BATCH_SIZE = 4
NUM_STEPS = 7


class Seen(tf.Module):
    """Remembers which rows a replica has seen, in variables on its host."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(1.0)
        rows = tf.fill([NUM_STEPS, BATCH_SIZE], -1)
        self.rows = tf.Variable(
            rows,
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )

    def loss(self, rows: Any, context: Any) -> Any:
        """Notes the rows' numbers, which stand in their first source value."""
        ids = rows["source"][:, 0]
        places = context.first_row + tf.range(tf.size(ids))
        steps = tf.fill(tf.shape(ids), tf.cast(context.step, tf.int32))
        at = tf.stack([steps, places], 1)
        self.rows.assign(tf.tensor_scatter_nd_update(self.rows, at, ids))
        loss = self.weight * tf.reduce_sum(tf.cast(ids, tf.float32))
        return loss, loss


def expected_rows(dataset: RecordDataset) -> Any:
    """Returns the rows of each step as one host reads them, on this process's CPU."""
    batches = dataset.from_step(0).take(NUM_STEPS)
    return np.stack([batch["source"][:, 0].numpy() for batch in batches])


def rows_seen(model: Seen) -> list[Any]:
    return [part.numpy() for part in model.rows.values]


def build(strategy: Any, dataset: RecordDataset) -> tuple[TrainState, TrainSteps]:
    with strategy.scope():
        model = Seen()
        optimizer = tf.keras.optimizers.Adam(0.1)
        optimizer.build(model.trainable_variables)
    settings = StepSettings(BATCH_SIZE, model.loss, lambda batch: tf.constant(1.0))
    steps = TrainSteps(model, optimizer, strategy, settings)
    return TrainState(model=model, optimizer=optimizer, data=dataset), steps


def check_input(model: Seen, expected: Any) -> None:
    """Each replica has seen its own rows of every step, and no others."""
    for replica, seen in enumerate(rows_seen(model)):
        num_rows = BATCH_SIZE // len(model.rows.values)
        mine = slice(replica * num_rows, (replica + 1) * num_rows)
        np.testing.assert_array_equal(seen[:, mine], expected[:, mine])
        assert (np.delete(seen, mine, axis=1) == -1).all()


def check_there_is_no_tpu(resolver: Any, settings: TpuSettings) -> None:
    """The hosts have no chips; TensorFlow's many errors about that are one of ours."""
    try:
        initialise(resolver, settings)
    except DeviceError as error:
        message = str(error)
    assert "the TPU can't be initialised" in message
    assert settings.name in message


def main() -> None:
    dataset = RecordDataset.open(
        f"{PRIVATE}/records", global_batch_size=BATCH_SIZE, seed=1
    )
    settings = TpuSettings(name=sys.argv[1])
    resolver = resolve(settings)
    connect(resolver)
    strategy = strategy_over_hosts(resolver, settings)
    with tf.device(host_device()):
        expected = expected_rows(dataset)
    # From here on only the hosts have them.
    shutil.rmtree("records")
    state, steps = build(strategy, dataset)
    assert len(steps.input.hosts) == 2
    steps.input.check_readable(dataset.records.path_of("records.json"))
    try:
        steps.input.check_readable(f"{PRIVATE}/elsewhere")
        raise AssertionError("a file that no host has was not missed")
    except DeviceError as error:
        assert "on 2 of 2 hosts" in str(error)
    with Checkpointer(f"{PRIVATE}/run") as checkpointer:
        checkpointer.restore_or_initialize(state)
        steps(steps.input.iterate(lambda: dataset.from_step(0)), 0, 3)
        state.step = 3
        checkpointer.save(state)
        steps(steps.input.iterate(lambda: dataset.from_step(3)), 3, NUM_STEPS - 3)
        weight = state.trackables["model"].weight.numpy()
        check_input(state.trackables["model"], expected)
    again, steps = build(strategy, dataset)
    Checkpointer(f"{PRIVATE}/run").restore_or_initialize(again)
    assert again.step == 3
    steps(steps.input.iterate(lambda: dataset.from_step(3)), 3, NUM_STEPS - 3)
    check_input(again.trackables["model"], expected)
    assert again.trackables["model"].weight.numpy() == weight
    check_there_is_no_tpu(resolver, settings)
    print("exact")


if __name__ == "__main__":
    main()
