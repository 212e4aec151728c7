"""What the callbacks of a `fit` keep, and how they get it back.

    states = CallbackStates(callbacks, covered=...)     # when training begins
    record = states.capture()                           # at a save
    states.apply(record)                                # in the next process

Attributes that changed since training began are saved. A callback that has methods
`state()` and `load_state(state)` is asked instead. CSVLogger and TensorBoard get their
files cut to what they were, so that no line is doubled or missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from resumable_tf.errors import CheckpointMismatchError, StateError
from resumable_tf.state.python_objects import AttributeTracker
from resumable_tf.training.keras.log_files import CsvFile, EventFiles

_OF_KERAS = {"model", "_model", "params", "validation_data", "_chief_worker_only"}
_DISPLAYS = {"ProgbarLogger"}
_RIVALS = {"BackupAndRestore"}

Record = list[dict[str, Any]]


class HasState(Protocol):
    """What is followed of one callback."""

    def changed(self) -> dict[str, Any]:
        """Returns storable values."""

    def apply(self, saved: dict[str, Any]) -> None:
        """Puts them back."""


class CallbackStates:
    """The callbacks of one call of `fit`, in their order."""

    def __init__(
        self,
        callbacks: Sequence[Any],
        *,
        covered: Callable[[Any], bool],
        began: float,
    ) -> None:
        """Remembers how the callbacks are when training begins.

        Args:
            callbacks: All of them but our own.
            covered: Tells whether a variable is part of the state already.
            began: When this start of the program began, in seconds since 1970.

        Raises:
            StateError: If one of them resumes training by itself.
        """
        rivals = [c for c in callbacks if type(c).__name__ in _RIVALS]
        if rivals:
            raise StateError(
                f"{type(rivals[0]).__name__} and ResumeCallback both restore the "
                "model when training begins; leave BackupAndRestore out"
            )
        self._followed = {
            name: _follow(callback, name, covered, began)
            for name, callback in _named(callbacks)
        }

    def capture(self) -> Record:
        """Returns what every callback keeps, storable.

        Raises:
            StateError: If a callback has changed what can't be stored.
        """
        return [
            {"name": name, "state": followed.changed()}
            for name, followed in self._followed.items()
        ]

    def apply(self, record: Record) -> None:
        """Gives every callback what it had.

        Callbacks that are new begin anew.

        Args:
            record: What `capture` returned.

        Raises:
            CheckpointMismatchError: If a callback that kept something is gone.
        """
        lost = [
            item["name"]
            for item in record
            if item["state"] and item["name"] not in self._followed
        ]
        if lost:
            raise CheckpointMismatchError(
                "cannot resume: callbacks of the saved run are not there.\n"
                f"  checkpoint: {[item['name'] for item in record]}\n"
                f"  now:        {list(self._followed)}\n"
                f"Pass {', '.join(lost)} to fit again, or start a new run directory.",
                unexpected=lost,
            )
        for item in record:
            if item["name"] in self._followed:
                self._followed[item["name"]].apply(item["state"])


class _OwnState:
    """A callback with methods for its state."""

    def __init__(self, callback: Any) -> None:
        self._callback = callback

    def changed(self) -> dict[str, Any]:
        return {"own": self._callback.state()}

    def apply(self, saved: dict[str, Any]) -> None:
        self._callback.load_state(saved["own"])


def _named(callbacks: Sequence[Any]) -> list[tuple[str, Any]]:
    """Returns the callbacks with their class names, numbered where one repeats."""
    counts: dict[str, int] = {}
    found = []
    for callback in callbacks:
        kind = type(callback).__name__
        if kind in _DISPLAYS:
            continue
        counts[kind] = counts.get(kind, 0) + 1
        number = f"#{counts[kind]}" if counts[kind] > 1 else ""
        found.append((f"{kind}{number}", callback))
    return found


def _follow(
    callback: Any, name: str, covered: Callable[[Any], bool], began: float
) -> HasState:
    kinds = {kind.__name__ for kind in type(callback).__mro__}
    if hasattr(callback, "state") and hasattr(callback, "load_state"):
        return _OwnState(callback)
    if "CSVLogger" in kinds:
        return CsvFile(callback)
    if "TensorBoard" in kinds:
        return EventFiles(callback, began=began)
    return AttributeTracker(callback, name=name, ignored=_OF_KERAS, covered=covered)
