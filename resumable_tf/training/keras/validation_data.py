"""The order of a validation dataset that is shuffled anew each time.

    validation = ValidationData(call)
    validation.begin_test()                 # in on_test_begin
    record = validation.capture()           # at a save
    validation.resume(record)               # in the next process

Keras makes iterators of the validation dataset at each validation, and each one draws
seeds for its shuffles. The order does not change what is trained, but the sums behind
`val_` metrics, and so perhaps what a callback decides. So as many iterators are made
before the first validation of a resumed run as the run had made before.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from resumable_tf.checkpoint.other_seeds import other_seeds
from resumable_tf.data.dataset_form import describe_dataset, draws_underway
from resumable_tf.errors import DataMismatchError, StateError
from resumable_tf.training.keras.fit_call import FitCall

_RESHUFFLES = "_reshuffle_each_iteration"

Record = dict[str, Any]


class ValidationData:
    """Counts what `fit` makes of its validation dataset, and does it again."""

    def __init__(self, call: FitCall) -> None:
        """Looks at the data; changes nothing.

        Args:
            call: The running `fit`.

        Raises:
            StateError: If training and validation draw from one shuffle.
        """
        self._call = call
        given = call.validation_data
        dataset = given if isinstance(given, tf.data.Dataset) else None
        shuffles = _reshuffles(dataset)
        self._pipeline = describe_dataset(dataset) if shuffles else []
        # Reading on is needed only where more seeds may be drawn underway.
        self._is_read = draws_underway(self._pipeline)
        self._counted: _Counted | None = None
        self._record: Record = {}
        of_training = {id(shuffle) for shuffle in _reshuffles(call.training_data)}
        if any(id(shuffle) in of_training for shuffle in shuffles):
            raise StateError(
                "training and validation read one dataset that is shuffled anew each "
                "time, so that each changes the other's order; shuffle the training "
                "dataset after it was split off, or with "
                "reshuffle_each_iteration=False"
            )

    def resume(self, record: Record) -> None:
        """Lets the first validation go on with the order that is due.

        Args:
            record: What `capture` returned.

        Raises:
            DataMismatchError: If the validation pipeline is another.
        """
        saved = record.get("pipeline", [])
        if saved and saved != self._pipeline:
            raise DataMismatchError(
                _other_pipeline(saved, self._pipeline),
                saved={"pipeline": saved},
                now={"pipeline": self._pipeline},
            )
        self._record = dict(record)

    def capture(self) -> Record:
        """Returns how many iterators were made, storable."""
        if self._counted is not None:
            self._record["made"] = list(self._counted.made)
            self._record["num_batches"] = self._num_batches
        return {**self._record, "pipeline": self._pipeline}

    def begin_test(self) -> None:
        """Takes Keras' place in making iterators, before the first validation."""
        if not self._pipeline:
            return
        loop = self._loop
        if loop is None:
            return  # a callback evaluates on its own
        if self._counted is None:
            self._counted = _Counted(self._dataset_of(loop))
            self._replay(self._counted)
            if self._call.is_keras_3:
                counted = self._counted
                loop._get_iterator = lambda: counted
            else:
                loop._dataset = self._counted
        self._counted.made.append(0)

    @property
    def _loop(self) -> Any:
        """What gives a validation its batches; Keras makes it at the first one."""
        name = "_eval_epoch_iterator" if self._is_keras_3 else "_eval_data_handler"
        return getattr(self._call.model, name, None)

    @property
    def _is_keras_3(self) -> bool:
        return self._call.is_keras_3

    @property
    def _num_batches(self) -> int | None:
        """Batches of a validation, None if it ends with the data."""
        loop = self._loop
        found = loop.num_batches if self._is_keras_3 else loop.inferred_steps
        return None if found is None or found < 0 else int(found)

    def _dataset_of(self, loop: Any) -> Any:
        return loop._distributed_dataset if self._is_keras_3 else loop._dataset

    def _replay(self, counted: _Counted) -> None:
        """Makes, and if need be reads, the iterators of earlier validations."""
        used = 0 if self._is_keras_3 else -1
        for made in self._record.get("made", ()):
            iterators = [iter(counted.dataset) for _ in range(made)]
            if self._is_read and iterators:
                _read(iterators[used], self._record["num_batches"])
            counted.made.append(made)


def _other_pipeline(saved: list[Any], now: list[Any]) -> str:
    """Returns what to say of two pipelines that are not equal."""
    lines = other_seeds(saved, now)
    if lines:
        first = "cannot resume: the validation data has other seeds"
        lines = [f"{first} than it was saved with.", *lines]
        return "\n".join(lines) + ", or start a new run directory"
    return (
        "cannot resume: the validation dataset is not the one it was saved "
        f"with.\n  checkpoint: {saved}\n  now:        {now}\n"
        "Use the pipeline that it was saved with, or start a new run directory"
    )


class _Counted:
    """Stands for a dataset wherever Keras only iterates over it.

    Attributes:
        made: Iterators made in each validation.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.made: list[int] = []

    def __iter__(self) -> Any:
        self.made[-1] += 1
        return iter(self.dataset)


def _read(iterator: Any, num_batches: int | None) -> None:
    """Reads as far as a validation did."""
    done = 0
    while num_batches is None or done < num_batches:
        if next(iterator, None) is None:
            return
        done += 1


def _reshuffles(dataset: Any) -> list[Any]:
    """Returns the parts of a pipeline that shuffle anew for each iterator."""
    found, queue = [], [dataset] if isinstance(dataset, tf.data.Dataset) else []
    while queue:
        current = queue.pop()
        if getattr(current, _RESHUFFLES, False):
            found.append(current)
        queue.extend(current._inputs())
    return found
