"""A validation data set in Python that changes from one validation to the next.

    source = ValidationSource(call)
    source.before_creation()        # Keras may make what reads it, and try it out
    source.before_test()            # and now reads it
    record = source.capture()       # at a save
    source.resume(record)           # in the next process

A `PyDataset` may shuffle in `on_epoch_end`, or count its batches. Keras makes its
reader at the first validation of each process, which tries the object out: what that
changes is undone where it has happened in an earlier process already.
"""

from __future__ import annotations

from typing import Any

from resumable_tf.errors import StateError
from resumable_tf.state.global_random import global_random, set_global_random
from resumable_tf.state.python_objects import AttributeTracker
from resumable_tf.training.keras.fit_call import FitCall

_KINDS = {"PyDataset", "Sequence"}
_OF_KERAS = {"_workers", "_use_multiprocessing", "_max_queue_size"}

Record = dict[str, Any]


class ValidationSource:
    """Follows the object that `fit` was given as validation data."""

    def __init__(self, call: FitCall) -> None:
        """Looks at the data; changes nothing.

        Args:
            call: The running `fit`.

        Raises:
            StateError: If it is a generator, whose position can't be put back.
        """
        given = call.validation_data
        if hasattr(given, "__next__") and hasattr(given, "__iter__"):
            raise StateError(
                f"validation_data is a {type(given).__name__}, which goes on where the "
                "last validation ended, and that place can't be saved. Pass arrays, a "
                "tf.data.Dataset or a keras.utils.PyDataset as validation_data"
            )
        self._tracker: AttributeTracker | None = None
        if _is_of_keras(given):
            name = f"validation_data ({type(given).__name__})"
            self._tracker = AttributeTracker(given, name=name, ignored=_OF_KERAS)
        self._num_tests = 0
        self._resumed: Record | None = None
        self._random: Any = None

    def resume(self, record: Record) -> None:
        """Lets the next validation find what the one before has left.

        Args:
            record: What `capture` returned.
        """
        self._num_tests = record.get("num_tests", 0)
        if self._tracker is not None and self._num_tests:
            self._resumed = record

    def capture(self) -> Record:
        """Returns what the object has changed since training began, storable."""
        if self._resumed is not None:  # No validation since the resume.
            return self._resumed
        changed = {} if self._tracker is None else self._tracker.changed()
        return {"num_tests": self._num_tests, "attributes": changed}

    def before_creation(self) -> None:
        """Notes what Keras must not change by making its reader once more."""
        if self._resumed is not None:
            self._random = global_random()

    def before_test(self) -> None:
        """Gives the object what it had."""
        self._num_tests += 1
        if self._resumed is None or self._tracker is None:
            return
        self._tracker.apply(self._resumed["attributes"])
        set_global_random(self._random)
        self._resumed = None


def _is_of_keras(obj: Any) -> bool:
    return any(
        kind.__name__ in _KINDS
        and kind.__module__.split(".")[0] in ("keras", "tf_keras")
        for kind in type(obj).__mro__
    )
