"""The iterators that `fit` makes of its dataset, each with what it was made from.

    iterators = Iterators(dataset, pipeline)
    iterator = iter(iterators)                  # what Keras does at each epoch
    iterators.start_of(iterator)
    iterators.put_back(start)                   # until the epoch's own is made

Making an iterator draws seeds for the dataset's reshuffling shuffles. So the order of
later epochs depends on how many were made, also of those that Keras throws away.
"""

from __future__ import annotations

import weakref
from typing import Any

from resumable_tf.data.pipeline import Pipeline, Record

_NUM_KEPT = 3


class Iterators:
    """Stands for a dataset wherever Keras only iterates over it."""

    def __init__(self, dataset: Any, pipeline: Pipeline) -> None:
        """Takes the dataset.

        Args:
            dataset: A `tf.data.Dataset`.
            pipeline: Its pipeline.
        """
        self.dataset = dataset
        self._pipeline = pipeline
        # Not the iterators themselves: each holds its buffers.
        self._made: list[tuple[weakref.ref[Any], Record]] = []
        self._due: Record | None = None

    def put_back(self, start: Record) -> None:
        """Lets each iterator be made from this start, until `settle`.

        Args:
            start: What an iterator was made from in the run that was interrupted.
        """
        self._due = start

    def settle(self) -> None:
        """Notes that the iterator of the resumed epoch is made."""
        self._due = None

    def start_of(self, iterator: Any) -> Record:
        """Returns what one of the last iterators was made from.

        Args:
            iterator: What `iter` returned.
        """
        return next(start for made, start in self._made if made() is iterator)

    def __iter__(self) -> Any:
        """Makes an iterator."""
        if self._due is not None:
            self._pipeline.put_back(self._due)
        start = self._pipeline.start()
        iterator = iter(self.dataset)
        self._made = [(weakref.ref(iterator), start), *self._made[: _NUM_KEPT - 1]]
        return iterator
