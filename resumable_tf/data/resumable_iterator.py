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
from resumable_tf.data.pipeline import Pipeline, Record, is_position
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
                operations must be TensorFlow's own: no Python functions.
            strategy: Gives each replica its part of a batch; None gives it whole.

        Raises:
            StateError: If the position in such a dataset can't be exact.
        """
        super().__init__()
        self.epoch = 0
        self.batch = 0
        self._dataset = dataset
        self._strategy = strategy
        self._pipeline = Pipeline(dataset)
        self._iterator: Any = None
        self._start: Record = {}
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
            self._make_iterator()
        values = next(self._iterator, None)
        if values is None:
            self._make_iterator()
            self.epoch += 1
            self.batch = 0
            values = next(self._iterator, None)
            if values is None:
                raise StateError("the dataset has no batch")
        self.batch += 1
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
        position: Record = {}
        if self._iterator is not None:
            position = self._pipeline.position(
                self._iterator, self._start, num_read=self.batch
            )
            self._warn_of_size(len(position["state"]))
        return encode({"epoch": self.epoch, "batch": self.batch, "position": position})

    def deserialize(self, string_value: bytes) -> None:
        """Moves to a position; TensorFlow calls it while restoring.

        Raises:
            CheckpointCorruptError: If the bytes are no position.
        """
        record = decode_part(string_value, name="data", marks=False)
        if not _is_record(record):
            raise damaged("data", "it is no position in a dataset")
        self.epoch, self.batch = record["epoch"], record["batch"]
        self._iterator = None
        position = record["position"]
        if position:
            self._pipeline.put_back(position["start"])
            self._make_iterator()
            self._pipeline.move(self._iterator, position)

    def fingerprint(self) -> bytes:
        """Returns what is equal in equal positions; TensorFlow's state is not."""
        return encode({"epoch": self.epoch, "batch": self.batch})

    def _make_iterator(self) -> None:
        self._start = self._pipeline.start()
        self._iterator = iter(self._dataset)

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
    if type(record) is not dict or record.keys() != {"epoch", "batch", "position"}:
        return False
    if not all(_is_count(record[name]) for name in ("epoch", "batch")):
        return False
    return record["position"] == {} or is_position(record["position"])


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
