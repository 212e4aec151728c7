"""The iterators that `fit` makes of its dataset, counted and put back.

    iterators = Iterators(dataset, returns_scratch=False)
    iter(iterators)                     # what Keras does at each epoch
    iterators.reseed(position, 1)       # for the next: as if 1 had been made since

Making an iterator draws seeds for the dataset's reshuffling shuffles. So the order of
later epochs depends on how many were made, and on the state they were made from.
"""

from __future__ import annotations

from typing import Any

from resumable_tf.data.iterator_state import Position, write_iterator


class Iterators:
    """Stands for a dataset wherever Keras only iterates over it.

    Attributes:
        count: Iterators made so far.
    """

    def __init__(self, dataset: Any, *, returns_scratch: bool) -> None:
        """Takes the dataset.

        Args:
            dataset: A `tf.data.Dataset`.
            returns_scratch: Whether Keras throws the first iterator of a `fit` away, so
                that one made for the seeds only may take its place.
        """
        self.dataset = dataset
        self.count = 0
        self._returns_scratch = returns_scratch
        self._seeds: tuple[Position, int, bool] | None = None

    def reseed(
        self, position: Position, num_made_since: int, *, reads_on: bool
    ) -> None:
        """Lets the next iterator be made as in the run that was interrupted.

        Args:
            position: State of an iterator of an earlier epoch.
            num_made_since: Iterators made and not used since that one.
            reads_on: Whether that epoch drew more seeds after that state, which reading
                it to its end draws again.
        """
        self._seeds = position, num_made_since, reads_on

    def __iter__(self) -> Any:
        """Makes an iterator."""
        self.count += 1
        if self._seeds is not None:
            position, num_made_since, reads_on = self._seeds
            self._seeds = None
            scratch = iter(self.dataset)
            write_iterator(scratch, position)
            if reads_on:
                for _ in scratch:
                    pass
            for _ in range(num_made_since):
                iter(self.dataset)
            if self._returns_scratch and self.count == 1:
                return scratch
        return iter(self.dataset)
