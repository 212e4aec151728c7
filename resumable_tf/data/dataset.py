"""Packed records as a dataset that starts at any step.

    dataset = RecordDataset.open("records", global_batch_size=64, seed=1)
    for batch in dataset.from_step(41000):      # reads nothing of what came before
        ...

Batch `k` holds rows `k * B` to `(k + 1) * B` of an endless stream: epoch after
epoch, all rows in an order of its own. Batches run on across epochs; no row is
dropped. There is no state: the position is `step * B`; where a run was continued with
another batch size, it is counted from the step and row of that change (`origin`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from resumable_tf.data.order import (
    base_key,
    fold_in_tf,
    order_key,
    permutation,
    permutation_tf,
)
from resumable_tf.data.record_files import RecordSet, RowLayout, SplitInfo
from resumable_tf.errors import UsageError
from resumable_tf.storage import PathLike


@dataclass(frozen=True)
class Origin:
    """Where the batches of one size begin.

    Attributes:
        step: Completed steps before the first of them.
        row: Rows of the endless stream read by then.
    """

    step: int = 0
    row: int = 0


@dataclass
class RecordDataset:
    """The training rows of a record set in the order of a seed.

    Attributes:
        records: The record set.
        global_batch_size: Rows a step, over all replicas.
        seed: Seed of the order.
        origin: Since when batches have this size; a restore sets it.
    """

    records: RecordSet
    global_batch_size: int
    seed: int
    origin: Origin = Origin()

    def __post_init__(self) -> None:
        """Checks the batch size.

        Raises:
            UsageError: If it is not positive.
        """
        if self.global_batch_size < 1:
            raise UsageError(
                f"--batch-size {self.global_batch_size}: it must be at least 1 row."
            )

    @classmethod
    def open(
        cls, directory: PathLike, *, global_batch_size: int, seed: int
    ) -> RecordDataset:
        """Opens a prepared record set and checks that its files are whole.

        Args:
            directory: What `prepare_records` wrote; local or a URL.
            global_batch_size: Rows a step, over all replicas.
            seed: Seed of the order.

        Raises:
            DataFormatError: If there is no complete record set.
        """
        records = RecordSet.open(directory)
        return cls(records, global_batch_size=global_batch_size, seed=seed)

    @property
    def num_rows(self) -> int:
        """Rows in an epoch."""
        return self._split.num_rows

    @property
    def _split(self) -> SplitInfo:
        return self.records.splits["train"]

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every row is seen once; batches run on across epochs."""
        return self.num_rows / self.global_batch_size

    def describe(self) -> dict[str, Any]:
        """Returns what a checkpoint must agree with to be continued with this.

        And, after a change of the batch size, since when it holds.
        """
        described: dict[str, Any] = {
            "fingerprint": self.records.fingerprint,
            "global_batch_size": self.global_batch_size,
            "seed": self.seed,
        }
        if self.origin != Origin():
            described["origin"] = asdict(self.origin)
        return described

    def continue_from(self, saved: Mapping[str, Any], step: int) -> None:
        """Begins after the rows that a run has read, whatever its batch size was.

        Args:
            saved: What `describe()` returned when the run was saved.
            step: Its completed steps.
        """
        before = Origin(**saved.get("origin", {}))
        size = int(saved["global_batch_size"])
        is_same = size == self.global_batch_size
        row = before.row + (step - before.step) * size
        self.origin = before if is_same else Origin(step, row)

    def position(self, step: int) -> tuple[int, int]:
        """Returns the epoch of the next row, and the full batches of it before that."""
        epoch, row = divmod(self.row(step), self.num_rows)
        return epoch, row // self.global_batch_size

    def row(self, step: int) -> int:
        """Returns the rows of the stream that `step` completed steps have read.

        Args:
            step: Completed training steps, 0 for a new run.

        Raises:
            ValueError: If `step` is negative, or before the change of the batch size.
        """
        if step < self.origin.step:
            raise ValueError(
                f"step is {step}; it counts completed steps, from {self.origin.step}, "
                "where batches of this size begin"
            )
        return self.origin.row + (step - self.origin.step) * self.global_batch_size

    def from_step(self, step: int) -> tf.data.Dataset:
        """Returns the batches from `step` onwards, without reading the ones before.

        Batch `k` of the result equals batch `step + k` of a run that was never
        interrupted. At most one shard is read before the first batch is ready.

        Args:
            step: Completed training steps, 0 for a new run.

        Returns:
            An endless dataset of dicts: `source`, `source_segments`,
            `source_positions`, `target`, `target_segments`, `target_positions`,
            int32 of shape [B, S] or [B, T].

        Raises:
            ValueError: If `step` is negative, or before the change of the batch size.

        Example:
            >>> first = next(iter(dataset.from_step(0)))
        """
        visit, skip = self._seek(self.row(step))
        layout = self.records.layout
        read = self._visit_reader(layout)
        visits = tf.data.Dataset.counter(visit, dtype=tf.int64)
        rows = visits.map(
            lambda v: read(v, tf.where(v == visit, skip, 0)), num_parallel_calls=2
        )
        # Nothing is dropped, the stream is endless; it makes the batch size static.
        batches = rows.rebatch(self.global_batch_size, drop_remainder=True)
        return batches.map(layout.decode, num_parallel_calls=2).prefetch(4)

    def _seek(self, row: int) -> tuple[int, int]:
        """Returns the shard visit that holds `row` of the stream, and where in it."""
        shards = self._split.shards
        epoch, row = divmod(row, self.num_rows)
        for place, shard in enumerate(self.shard_order(epoch)):
            if row < shards[shard].num_rows:
                return epoch * len(shards) + place, row
            row -= shards[shard].num_rows
        raise AssertionError("a row beyond its epoch")

    def shard_order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Returns the order of the shards in `epoch`."""
        key = order_key(seed=self.seed, purpose="shards", counter=epoch)
        return permutation(len(self._split.shards), key=key)

    def row_order(self, visit: int) -> npt.NDArray[np.int64]:
        """Returns the order of the rows within shard visit number `visit`."""
        epoch, place = divmod(visit, len(self._split.shards))
        shard = self._split.shards[self.shard_order(epoch)[place]]
        key = order_key(seed=self.seed, purpose="rows", counter=visit)
        return permutation(shard.num_rows, key=key)

    def _visit_reader(self, layout: RowLayout) -> Any:
        """Returns a graph-only function from a visit to its rows, uint16 [n, row].

        No Python runs inside the graph, so it works on a pod's remote hosts too.
        """
        shards = self._split.shards
        paths = tf.constant([self.records.path_of(shard.file) for shard in shards])
        num_shards = len(shards)
        shard_key = tf.constant(base_key(self.seed, "shards"), tf.int64)
        row_key = tf.constant(base_key(self.seed, "rows"), tf.int64)

        def read(visit: tf.Tensor, skip: tf.Tensor) -> tf.Tensor:
            epoch, place = visit // num_shards, visit % num_shards
            shard = permutation_tf(num_shards, key=fold_in_tf(shard_key, epoch))[place]
            content = tf.io.decode_raw(
                tf.io.read_file(tf.gather(paths, shard)), tf.uint16
            )
            rows = tf.reshape(content, [-1, layout.row_width])
            order = permutation_tf(tf.shape(rows)[0], key=fold_in_tf(row_key, visit))
            return tf.gather(rows, order[skip:])

        return read


def evaluation_batches(
    records: RecordSet, split: str, *, batch_size: int
) -> tf.data.Dataset:
    """Returns the rows of `split` once, in file order, in full batches.

    The last batch is filled up with empty rows (segment 0 everywhere), which count
    for nothing, so that every batch has the same shape.

    Args:
        records: The record set.
        split: `validation` or `test`.
        batch_size: Rows a batch, over all replicas.
    """
    layout = records.layout
    paths = [records.path_of(shard.file) for shard in records.splits[split].shards]
    files = tf.data.Dataset.from_tensor_slices(paths)
    rows = files.map(
        lambda path: tf.reshape(
            tf.io.decode_raw(tf.io.read_file(path), tf.uint16), [-1, layout.row_width]
        )
    )

    def fill(batch: tf.Tensor) -> Mapping[str, tf.Tensor]:
        missing = batch_size - tf.shape(batch)[0]
        full = tf.pad(batch, [[0, missing], [0, 0]])
        return layout.decode(tf.ensure_shape(full, [batch_size, layout.row_width]))

    return rows.rebatch(batch_size).map(fill).prefetch(2)
