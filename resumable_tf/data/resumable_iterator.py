"""Any `tf.data` pipeline, read so that its position is part of the checkpoint.

    batches = ResumableIterator(dataset)            # endless: epoch after epoch
    state = TrainState(model=model, optimizer=optimizer, data=batches)
    checkpointer.restore_or_initialize(state)
    while state.step < 10_000:
        train_step(next(batches))
        state.step += 1
        checkpointer.maybe_save(state)

The batches are those of `for batch in dataset` again and again, also where a shuffle
reshuffles each epoch. Under a strategy each replica gets its part of the host's batch:
TensorFlow's distributed datasets can't be put back to a position.
"""

from __future__ import annotations

import logging
from typing import Any

import tensorflow as tf

from resumable_tf.data.dataset_form import describe_dataset
from resumable_tf.data.iterator_state import (
    Position,
    num_shuffles,
    read_iterator,
    size_bytes,
    write_iterator,
)
from resumable_tf.errors import StateError
from resumable_tf.state.python_state import damaged, decode_part
from resumable_tf.state.python_values import encode

_LARGE_POSITION = 4 << 20
_log = logging.getLogger(__name__)


class ResumableIterator(tf.train.experimental.PythonState):  # type: ignore[misc]
    """Reads a dataset epoch after epoch, from any position.

    Attributes:
        epoch: Index of the epoch of the last batch.
        batch: Batches read of that epoch.

    Example:
        >>> batches = ResumableIterator(tf.data.Dataset.range(6).shuffle(6).batch(2))
        >>> first = next(batches)
    """

    def __init__(self, dataset: Any, *, strategy: Any = None) -> None:
        """Takes the dataset; nothing is read before the first `next`.

        Args:
            dataset: A finite or endless `tf.data.Dataset` of global batches. Its
                operations must be TensorFlow's own: no Python functions, and no
                random numbers but those of `shuffle` and `tf.random.stateless_*`.
            strategy: Gives each replica its part of a batch; None gives it whole.
        """
        super().__init__()
        self.epoch = 0
        self.batch = 0
        self._dataset = dataset
        self._strategy = strategy
        self._iterator: Any = None
        self._safe: Position | None = None
        self._safe_batch = 0
        self._has_warned = False

    def __iter__(self) -> ResumableIterator:
        """Returns itself."""
        return self

    def __next__(self) -> Any:
        """Returns the next batch; after an epoch's last the first of the next.

        Raises:
            StateError: If the dataset has no batch, or one that replicas can't share.
        """
        if self._iterator is None:
            self._iterator = iter(self._dataset)
        values = next(self._iterator, None)
        if values is None:
            self._begin_epoch()
            values = next(self._iterator, None)
            if values is None:
                raise StateError("the dataset has no batch")
        self.batch += 1
        if self._safe is None:
            self._safe, self._safe_batch = read_iterator(self._iterator), self.batch
        return values if self._strategy is None else self._distribute(values)

    def describe(self) -> dict[str, Any]:
        """Returns what must be equal for a position to mean the same."""
        return {
            "element_spec": repr(self._dataset.element_spec),
            "cardinality": int(self._dataset.cardinality()),
            "pipeline": describe_dataset(self._dataset),
        }

    def serialize(self) -> bytes:
        """Returns the position as bytes; TensorFlow asks while saving."""
        position: Position = []
        if self._safe is not None:
            position = read_iterator(self._iterator)
            if num_shuffles(position) >= num_shuffles(self._safe):
                self._safe, self._safe_batch = position, self.batch
            # Otherwise TensorFlow has let go of later epochs' seeds; see
            # iterator_state. The batches read since the last good state are few.
            position = self._safe
            self._warn_of_size(size_bytes(position))
        return encode(
            {
                "epoch": self.epoch,
                "batch": self.batch,
                "position": position,
                "skip": self.batch - self._safe_batch if position else 0,
            }
        )

    def deserialize(self, string_value: bytes) -> None:
        """Moves to a position; TensorFlow calls it while restoring.

        Raises:
            CheckpointCorruptError: If the bytes are no position.
        """
        record = decode_part(string_value, name="data", marks=False)
        if not _is_record(record):
            raise damaged("data", "it is no position in a dataset")
        self.epoch, self.batch = record["epoch"], record["batch"]
        self._safe, self._iterator = None, None
        if not record["position"]:
            return
        self._iterator = iter(self._dataset)
        write_iterator(self._iterator, record["position"])
        self._safe = record["position"]
        self._safe_batch = self.batch - record["skip"]
        for _ in range(record["skip"]):
            next(self._iterator)

    def fingerprint(self) -> bytes:
        """Returns what is equal in equal positions; TensorFlow's state is not."""
        return encode({"epoch": self.epoch, "batch": self.batch})

    def _begin_epoch(self) -> None:
        self._iterator = iter(self._dataset)
        self._safe = None
        self.epoch += 1
        self.batch = 0

    def _warn_of_size(self, size: int) -> None:
        if size > _LARGE_POSITION and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "the position in the data takes %.1f MB of each checkpoint, since it "
                "holds the shuffle buffers; shuffle indices or file names instead of "
                "examples, or use a smaller buffer",
                size / 1e6,
            )

    def _distribute(self, values: Any) -> Any:
        """Returns each replica's rows of a batch, in their order.

        Raises:
            StateError: If the rows can't be shared equally.
        """
        count = self._strategy.num_replicas_in_sync
        rows = {int(tensor.shape[0]) for tensor in tf.nest.flatten(values)}
        if len(rows) > 1 or next(iter(rows)) % count:
            raise StateError(
                f"a batch of {sorted(rows)} rows can't be shared equally by {count} "
                "replicas; use batch(n, drop_remainder=True) with a multiple of them"
            )
        size = rows.pop() // count

        def part(context: Any) -> Any:
            first = context.replica_id_in_sync_group * size
            return tf.nest.map_structure(lambda t: t[first : first + size], values)

        return self._strategy.experimental_distribute_values_from_function(part)


def _is_record(record: Any) -> bool:
    """Returns whether a decoded value is what `serialize` writes."""
    numbers = ("epoch", "batch", "skip")
    if type(record) is not dict or record.keys() != {*numbers, "position"}:
        return False
    if not all(type(record[name]) is int and record[name] >= 0 for name in numbers):
        return False
    position = record["position"]
    is_list = type(position) is list and all(type(item) is bytes for item in position)
    return is_list and record["skip"] <= record["batch"]
