"""A `tf.data` pipeline whose iterators can be put back to any batch.

    pipeline = Pipeline(dataset)                # refuses what can't be exact
    start = pipeline.start()                    # before an iterator is made
    iterator = iter(dataset)
    ...                                         # three batches are read
    position = pipeline.position(iterator, start, num_read=3)

    pipeline.put_back(position["start"])        # in the next process
    iterator = iter(dataset)
    pipeline.move(iterator, position)

An epoch's start is all that its iterator depends on: how many seeds the shuffles have
drawn, and the variables that functions in the pipeline use. A position is either that
of TensorFlow's iterator state with the counts at that moment, or the start and the
number of batches to read again.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.data.exactness import changes_variables, replayed_because
from resumable_tf.data.iterator_state import read_iterator, write_iterator
from resumable_tf.data.pipeline_parts import Parts, find_parts
from resumable_tf.data.seed_counts import SeedCounts

_MOST_TRIES = 20
_log = logging.getLogger(__name__)

Record = dict[str, Any]


class Pipeline:
    """Reads and sets all that iterators of a dataset depend on.

    Attributes:
        reasons: Why batches are read again at a resume; empty if they need not be.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        is_replayed_by: str | None = None,
        trusts_random: bool = False,
    ) -> None:
        """Looks at the dataset.

        Args:
            dataset: A `tf.data.Dataset`.
            is_replayed_by: Who makes the same batches again, if it is not for the
                dataset's operations to do so.
            trusts_random: Whether random operations in functions are known to be over
                before the first batch.

        Raises:
            StateError: If a position in it can't be exact.
        """
        self._parts, self.reasons = Parts(), [is_replayed_by or ""]
        self._ignores_stateful = trusts_random
        self._is_endless = int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY
        if is_replayed_by is None:
            self._parts = find_parts(dataset)
            self.reasons = replayed_because(self._parts, trusts_random=trusts_random)
        self._changes_variables = changes_variables(self._parts)
        self._counts: SeedCounts | None = None

    def start(self) -> Record:
        """Returns what the next iterator depends on."""
        return {"counts": self._seed_counts.read(), "variables": self._values()}

    def put_back(self, start: Record) -> None:
        """Lets the next iterator be as it was.

        Args:
            start: What `start` returned, perhaps in another process.
        """
        self._seed_counts.write(start["counts"])
        self._assign(start["variables"])

    def beginning(self, start: Record) -> Record:
        """Returns the position before the first batch of an iterator.

        Args:
            start: What it is made from.
        """
        return {"start": start, "state": b"", "num_read": 0, "variables": []}

    def position(self, iterator: Any, start: Record, *, num_read: int) -> Record:
        """Returns how to get to the next batch again.

        Args:
            iterator: The running one.
            start: What it was made from.
            num_read: Batches read from it.
        """
        record = {**self.beginning(start), "num_read": num_read}
        record["variables"] = [] if self._changes_variables else self._values()
        if self.reasons or not num_read:
            return record
        for _ in range(_MOST_TRIES):
            # A prefetch may begin another shuffle meanwhile.
            counts = self._seed_counts.read()
            state = read_iterator(iterator, ignores_stateful=self._ignores_stateful)
            if self._seed_counts.read() == counts:
                return {**record, "state": state, "counts": counts}
        return record

    def move(self, iterator: Any, position: Record) -> None:
        """Moves a new iterator, made from the position's start.

        Args:
            iterator: What was made after `put_back`.
            position: What `position` returned.
        """
        if position["state"]:
            write_iterator(iterator, position["state"])
            self._seed_counts.write(position["counts"])
        elif position["num_read"]:
            self._read_again(iterator, position["num_read"])
        self._assign(position["variables"])

    def _read_again(self, iterator: Any, num_read: int) -> None:
        """Reads what was consumed, and says how much that is."""
        because = ", ".join(self.reasons) or "prefetch"
        if self._is_endless:
            # May take as long as the training did, in silence.
            _log.warning(
                "reading all %d batches since the start of training again, and more at "
                "each later resume: repeat() makes one epoch of it all, and TensorFlow "
                "can't put its position back exactly (%s). Leave repeat() out, so that "
                "a resume reads one epoch again at most",
                *(num_read, because),
            )
        else:
            _log.info(
                "reading %d batches of this epoch again, since TensorFlow can't put "
                "its position back exactly (%s)",
                *(num_read, because),
            )
        for _ in range(num_read):
            next(iterator, None)

    @property
    def _seed_counts(self) -> SeedCounts:
        if self._counts is None:
            self._counts = SeedCounts(self._parts.shuffles)
        return self._counts

    def _values(self) -> list[Any]:
        return [variable.numpy() for variable in self._parts.variables]

    def _assign(self, values: list[Any]) -> None:
        if values:
            for variable, value in zip(self._parts.variables, values, strict=True):
                variable.assign(value)


def is_position(record: Any) -> bool:
    """Returns whether a value has the form of what `position` returns.

    Args:
        record: What was read from a checkpoint.
    """
    keys = {"start", "state", "num_read", "variables"}
    if type(record) is not dict or record.keys() - {"counts"} != keys:
        return False
    start = record["start"]
    if type(start) is not dict or start.keys() != {"counts", "variables"}:
        return False
    counts = [start["counts"], record.get("counts", []), [record["num_read"]]]
    values = [start["variables"], record["variables"]]
    if not all(type(found) is list for found in (*counts, *values)):
        return False
    return (
        all(type(item) is int and item >= 0 for item in chain(*counts))
        and all(isinstance(item, (np.ndarray, np.generic)) for item in chain(*values))
        and type(record["state"]) is bytes
        and ("counts" in record) == bool(record["state"])
    )
