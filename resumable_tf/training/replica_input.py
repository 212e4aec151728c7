"""Hands each replica its rows, on the host that the replica is on.

    replica_input = ReplicaInput(strategy, num_rows=8)
    iterator = replica_input.iterate(lambda: dataset.from_step(step))
    # in the compiled step:
    batch = replica_input.next_batch(iterator)
    strategy.run(replica_step, args=(batch.for_replicas,))

One host: a plain iterator, every replica is handed the global batch and takes its rows.
Several hosts of one client (a TPU pod): an iterator on each host's CPU, all of the same
dataset, so that no row travels between hosts; each reads the global batch and cuts out
the rows of its own replicas. The position is the step alone, so none of these iterators
is ever saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from resumable_tf.errors import DeviceError

Batch = Mapping[str, Any]


class StepBatch(NamedTuple):
    """A global batch on its way to the replicas.

    Attributes:
        whole: The global batch.
        for_replicas: What each replica is handed.
    """

    whole: Batch
    for_replicas: Any


def hosts_of(strategy: Any) -> tuple[str, ...]:
    """Returns the CPU of the host of each replica of this client, by replica."""
    return tuple(_host_of(device) for device in strategy.extended.worker_devices)


class ReplicaInput:
    """How the batches of a run reach the replicas of its strategy.

    Attributes:
        hosts: CPUs of the hosts, if one client drives several; else empty.
    """

    def __init__(self, strategy: Any, *, num_rows: int) -> None:
        """Looks where the replicas are; makes nothing.

        Args:
            strategy: The strategy.
            num_rows: Rows of each replica.
        """
        self._strategy = strategy
        self._num_rows = num_rows
        self._replica_hosts = hosts_of(strategy)
        hosts = tuple(dict.fromkeys(self._replica_hosts))
        self.hosts = hosts if len(hosts) > 1 else ()

    def iterate(self, make_dataset: Callable[[], Any]) -> Any:
        """Returns an iterator over the dataset; on several hosts, one on each.

        Args:
            make_dataset: Returns the dataset; its operations must not need Python.
        """
        if not self.hosts:
            return iter(make_dataset())
        iterators = []
        for host in self.hosts:
            # File names and seeds are captured where the dataset is.
            with tf.device(host):
                iterators.append(iter(make_dataset()))
        for host in self.hosts:
            _wait_for(host)
        return tuple(iterators)

    def next_batch(self, iterator: Any) -> StepBatch:
        """Returns the next batch, inside a `tf.function`.

        Args:
            iterator: What `iterate` returned.
        """
        if not self.hosts:
            batch = next(iterator)
            return StepBatch(batch, batch)
        batches = {}
        for host, one in zip(self.hosts, iterator, strict=True):
            with tf.device(host):
                batches[host] = next(one)

        def rows_of(context: Any) -> Batch:
            replica = context.replica_id_in_sync_group
            host = self._replica_hosts[replica]
            first = replica * self._num_rows
            with tf.device(host):
                return {
                    name: value[first : first + self._num_rows]
                    for name, value in batches[host].items()
                }

        mine = self._strategy.experimental_distribute_values_from_function(rows_of)
        return StepBatch(batches[self.hosts[0]], mine)

    def take_rows(self, batch: Batch) -> tuple[Batch, Any]:
        """Returns a replica's rows of what it was handed, and the first one's index.

        Args:
            batch: Its part of `StepBatch.for_replicas`; inside `strategy.run`.
        """
        if not self.hosts:
            return take_rows(batch, self._num_rows)
        return batch, _first_row(self._num_rows)

    def check_readable(self, path: str) -> None:
        """Checks that every host can read a file.

        Args:
            path: Of a file that all hosts are to read.

        Raises:
            DeviceError: If a host does not see it.
        """
        blind = [host for host in self.hosts if not _can_read(host, path)]
        if blind:
            raise DeviceError(
                f"{path} can't be read on {len(blind)} of {len(self.hosts)} hosts: "
                f"{', '.join(blind)}.\n"
                "Each host of a pod reads its own rows. Put the records where all of "
                "them can read, as with --records gs://BUCKET/records."
            )


def take_rows(batch: Batch, num_rows: int) -> tuple[Batch, Any]:
    """Returns this replica's rows of a global batch, and the index of the first."""
    first = _first_row(num_rows)
    # `value[first:first + num_rows]` would be of unknown length to the TPU compiler, as
    # there the replica's number is a tensor.
    mine = {
        name: tf.slice(
            value,
            [first, *[0] * (value.shape.rank - 1)],
            [num_rows, *value.shape[1:]],
        )
        for name, value in batch.items()
    }
    return mine, first


def _first_row(num_rows: int) -> Any:
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.cast(replica, tf.int32) * num_rows


def _host_of(device: str) -> str:
    spec = tf.DeviceSpec.from_string(device)
    return str(spec.replace(device_type="CPU", device_index=0).to_string())


def _wait_for(host: str) -> None:
    """Waits until a host has done what it was told so far.

    Calls to remote hosts return at once, and a compiled step does not queue behind
    them: it could meet an iterator that is not there yet.
    """
    with tf.device(host):
        tf.add(tf.constant(1), tf.constant(1)).numpy()


def _can_read(host: str, path: str) -> bool:
    """Tells whether a host sees a file; asked by an operation that runs there."""
    with tf.device(host):
        try:
            return bool(tf.size(tf.io.read_file(path)).numpy())
        except (tf.errors.NotFoundError, tf.errors.UnimplementedError):
            return False
