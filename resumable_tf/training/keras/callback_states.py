"""What the callbacks of a `fit` keep, and how they get it back.

    states = CallbackStates(callbacks, covered=...)     # when training begins
    record = states.capture()                           # at a save
    states.apply(record)                                # in the next process

Attributes that changed since training began are saved. A callback that has methods
`state()` and `load_state(state)` is asked instead. CSVLogger and TensorBoard also get
their files cut to what they were, so that no line is doubled or missing.

A checkpoint can change what the callbacks' code changes in training, and nothing else:
see `state.program_code` and `state.thawing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from resumable_tf.errors import CheckpointMismatchError, StateError
from resumable_tf.state.freezing import own_state
from resumable_tf.state.program_code import assigned, functions_in, is_library
from resumable_tf.state.python_objects import ObjectStates
from resumable_tf.state.python_values import decode
from resumable_tf.state.thawing import load_own_state
from resumable_tf.state.value_kinds import MalformedValue, NotStorable
from resumable_tf.training.keras.log_files import CsvFile, EventFiles

_OF_KERAS = {"model", "_model", "params", "validation_data", "_chief_worker_only"}
_DISPLAYS = {"ProgbarLogger"}
_RIVALS = {"BackupAndRestore"}
_LOGGERS = {"CSVLogger", "TensorBoard"}

Record = list[dict[str, Any]]


class HasState(Protocol):
    """What is followed of one callback beside its attributes."""

    def changed(self) -> dict[str, Any]:
        """Returns storable values."""

    def check(self, saved: Any) -> None:
        """Raises a `MalformedValue` of values that it never returns."""

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
        named = dict(_named(callbacks))
        self._followed = {name: _follow(c, began) for name, c in named.items()}
        tracked = {
            name: callback
            for name, callback in named.items()
            if not isinstance(self._followed[name], _OwnState)
        }
        self._attributes = ObjectStates(
            tracked,
            ignored={name: _ignored(callback) for name, callback in tracked.items()},
            covered=covered,
        )

    def capture(self) -> Record:
        """Returns what every callback keeps, storable.

        Raises:
            StateError: If a callback has changed what can't be stored.
        """
        attributes = self._attributes.changed()
        return [
            {
                "name": name,
                "attributes": attributes.get(name, {}),
                "more": None if more is None else more.changed(),
            }
            for name, more in self._followed.items()
        ]

    def apply(self, record: Record) -> None:
        """Gives every callback what it had.

        Callbacks that are new begin anew.

        Args:
            record: What `capture` returned.

        Raises:
            CheckpointMismatchError: If a callback that kept something is gone, or the
                record holds what none of these callbacks keeps. Nothing is changed
                then.
        """
        _check_form(record)
        lost = [
            item["name"]
            for item in record
            if (item["attributes"] or item["more"])
            and item["name"] not in self._followed
        ]
        if lost:
            raise CheckpointMismatchError(
                "cannot resume: callbacks of the saved run are not there.\n"
                f"  checkpoint: {[item['name'] for item in record]}\n"
                f"  now:        {list(self._followed)}\n"
                f"Pass {', '.join(lost)} to fit again, or start a new run directory.",
                unexpected=lost,
            )
        known = [item for item in record if item["name"] in self._followed]
        self._check_more(known)
        self._attributes.apply(
            {
                item["name"]: item["attributes"]
                for item in known
                if not isinstance(self._followed[item["name"]], _OwnState)
            }
        )
        for item in known:
            more = self._followed[item["name"]]
            if more is not None:
                more.apply(item["more"])

    def _check_more(self, record: Record) -> None:
        """Makes sure that each callback can take what is saved for it.

        Raises:
            CheckpointMismatchError: If one can't.
        """
        for item in record:
            more = self._followed[item["name"]]
            try:
                if more is not None:
                    more.check(item["more"])
                elif item["more"] is not None:
                    raise MalformedValue("it keeps nothing but its attributes")
                if isinstance(more, _OwnState) and item["attributes"]:
                    raise MalformedValue("it keeps nothing but its state()")
            except MalformedValue as error:
                raise _refusal(f"{item['name']}: {error}") from error


def _check_form(record: Any) -> None:
    """Makes sure that a record is one of callbacks.

    Raises:
        CheckpointMismatchError: If it is not.
    """
    is_known = type(record) is list and all(
        type(item) is dict
        and item.keys() == {"name", "attributes", "more"}
        and type(item["name"]) is str
        and type(item["attributes"]) is dict
        and all(type(key) is str for key in item["attributes"])
        for item in record
    )
    names = [item["name"] for item in record] if is_known else []
    if not is_known or len(set(names)) != len(names):
        raise _refusal("it is no record of callbacks")


def _refusal(reason: str) -> CheckpointMismatchError:
    return CheckpointMismatchError(
        f"cannot resume: what the checkpoint keeps of the callbacks is nothing that a "
        f"save of them gives ({reason}).\nPass the callbacks that it was saved with, "
        "or start a new run directory.",
        changed=[reason],
    )


class _OwnState:
    """A callback with methods for its state."""

    def __init__(self, callback: Any) -> None:
        self._callback = callback

    def changed(self) -> dict[str, Any]:
        """Returns what its state() gives.

        Raises:
            StateError: If that is not made of plain values.
        """
        try:
            return {"own": own_state(self._callback)}
        except NotStorable as error:
            raise StateError(
                f"{error}; let it return numbers, strings, arrays, and lists and "
                "dictionaries of these"
            ) from error

    def check(self, saved: Any) -> None:
        """Makes sure that it is bytes of plain values.

        Raises:
            MalformedValue: If it is not.
        """
        if type(saved) is not dict or saved.keys() != {"own"}:
            raise MalformedValue("it is no state of its own")
        if type(saved["own"]) is not bytes:
            raise MalformedValue("its own state is no bytes")
        decode(saved["own"], marks=False)

    def apply(self, saved: dict[str, Any]) -> None:
        state = decode(saved["own"], marks=False)
        load_own_state(self._callback, state, type(self._callback).__name__)


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


def _follow(callback: Any, began: float) -> HasState | None:
    kinds = _kinds(callback)
    if hasattr(callback, "state") and hasattr(callback, "load_state"):
        return _OwnState(callback)
    if "CSVLogger" in kinds:
        return CsvFile(callback)
    if "TensorBoard" in kinds:
        return EventFiles(callback, began=began)
    return None


def _kinds(callback: Any) -> set[str]:
    return {kind.__name__ for kind in type(callback).__mro__}


def _ignored(callback: Any) -> set[str]:
    """Returns the attributes that are Keras' own business.

    Loggers have open files; a user's subclass of one may keep more.
    """
    found = set(_OF_KERAS)
    if not _kinds(callback).isdisjoint(_LOGGERS):
        for kind in type(callback).__mro__:
            if is_library(kind.__module__):
                for value in vars(kind).values():
                    for function in functions_in(value):
                        found |= assigned(function.__code__)
    return found
