"""Python objects with a state of their own, as parts of a checkpoint.

    TrainState(model=model, sampler=sampler, noise=np.random.default_rng(1))

Random generators of Python and NumPy, and objects with methods `state()` and
`load_state(state)`, are saved as bytes, without pickle, and put back in place.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from resumable_tf.errors import CheckpointCorruptError, StateError
from resumable_tf.state.freezing import own_state
from resumable_tf.state.keras_objects import variables_of
from resumable_tf.state.python_values import decode, encode
from resumable_tf.state.random_states import RANDOM_GENERATORS, check, put, state_of
from resumable_tf.state.thawing import load_own_state
from resumable_tf.state.value_kinds import Generator, MalformedValue, NotStorable

__all__ = ["RANDOM_GENERATORS", "SavedObject", "has_python_state"]


class SavedObject(tf.train.experimental.PythonState):  # type: ignore[misc]
    """Stands in a checkpoint for an object that TensorFlow can't track."""

    def __init__(self, obj: Any, *, name: str) -> None:
        """Takes the object.

        Args:
            obj: A generator, or an object with `state()` and `load_state()`.
            name: What to call it in errors.
        """
        super().__init__()
        self._obj, self._name = obj, name

    def serialize(self) -> bytes:
        """Returns its state as bytes; TensorFlow asks while saving.

        Raises:
            StateError: If the state is not made of plain values.
        """
        try:
            if isinstance(self._obj, RANDOM_GENERATORS):
                return encode(state_of(self._obj))
            return own_state(self._obj)
        except NotStorable as error:
            raise StateError(
                f"{self._name}={type(self._obj).__name__} can't be saved ({error}); "
                "let state() return numbers, strings, arrays, and lists and "
                "dictionaries of these"
            ) from error

    def deserialize(self, string_value: bytes) -> None:
        """Puts the state back in place; TensorFlow calls it while restoring.

        Raises:
            CheckpointCorruptError: If the bytes are no state of such an object.
            CheckpointMismatchError: If the object does not take its own state.
        """
        if not isinstance(self._obj, RANDOM_GENERATORS):
            state = decode_part(string_value, name=self._name, marks=False)
            load_own_state(self._obj, state, self._name)
            return
        mark = decode_part(string_value, name=self._name)
        try:
            put(_checked(mark), self._obj)
        except MalformedValue as error:
            raise damaged(self._name, error) from error


def _checked(mark: Any) -> Generator:
    if not isinstance(mark, Generator):
        raise MalformedValue("it is no state of a random generator")
    check(mark)
    return mark


def decode_part(data: bytes, *, name: str, marks: bool = True) -> Any:
    """Returns the Python value of one part of a checkpoint.

    Args:
        data: What `encode` returned.
        name: The part, for errors.
        marks: Whether marks may stand in it, or plain values only.

    Raises:
        CheckpointCorruptError: If the bytes are anything else.
    """
    try:
        return decode(data, marks=marks)
    except MalformedValue as error:
        raise damaged(name, error) from error


def damaged(name: str, error: object) -> CheckpointCorruptError:
    """Returns the error of a part that no save has written."""
    return CheckpointCorruptError(f"the part {name!r} is no saved value: {error}")


def has_python_state(obj: Any) -> bool:
    """Returns whether an object is saved through `SavedObject`."""
    if isinstance(obj, RANDOM_GENERATORS):
        return True
    is_own = callable(getattr(obj, "state", None)) and hasattr(obj, "load_state")
    is_tracked = isinstance(obj, (tf.Module, tf.train.experimental.PythonState))
    return is_own and not is_tracked and not isinstance(obj, type)


def as_trackable(name: str, obj: Any) -> Any:
    """Returns what stands in a checkpoint for an object, mostly itself.

    Args:
        name: What to call it in errors.
        obj: What was handed in.
    """
    if has_python_state(obj):
        return SavedObject(obj, name=name)
    # Keras 3's metrics are nothing that TensorFlow tracks, but may be in a list.
    is_tracked = hasattr(obj, "_serialize_to_tensors")
    return obj if is_tracked or not variables_of(obj) else [obj]


def check_trackable(name: str, obj: Any) -> None:
    """Refuses what TensorFlow can't save.

    Args:
        name: What it is called.
        obj: What `as_trackable` returned.

    Raises:
        TypeError: If it can't be saved.
    """
    try:
        tf.train.Checkpoint(**{name: obj})
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name}={type(obj).__name__} can't be saved; pass models, optimizers, "
            "tf.Variable or tf.Module objects, random generators, objects with state() "
            "and load_state(state), and plain values in extra"
        ) from error
