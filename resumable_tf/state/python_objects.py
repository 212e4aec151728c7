"""What a Python object keeps in its attributes, and how it has changed.

    tracker = AttributeTracker(callback, name="EarlyStopping")
    ...                                     # training
    tracker.changed()                       # {"wait": 3, "best": 0.25}
    tracker.apply(saved)                    # in the next process

Only attributes that changed since the tracker was made count: what the user sets when
the object is made stays the user's. Objects that have a state of their own (random
generators, variables, metrics, objects with `state()` and `load_state()`) get it back
in place, so that whoever else holds them sees it too.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from resumable_tf.errors import StateError
from resumable_tf.state.keras_objects import variables_of
from resumable_tf.state.leaf import is_variable, tensorflow_variable
from resumable_tf.state.python_values import InPlace, NotStorable, encode

_LIBRARIES = ("keras.", "tf_keras.", "tensorflow.", "builtins", "_io", "threading")


class AttributeTracker:
    """Follows the attributes of one object."""

    def __init__(
        self,
        obj: Any,
        *,
        name: str,
        ignored: Collection[str] = (),
        covered: Callable[[Any], bool] = lambda variable: False,
    ) -> None:
        """Remembers the attributes as they are now.

        Args:
            obj: Whose attributes to follow.
            name: What to call it in errors.
            ignored: Attributes that don't count.
            covered: Tells whether a variable is part of the state already.
        """
        self.obj = obj
        self._name = name
        self._ignored = set(ignored)
        self._covered = covered
        self._baseline = {key: self._token(value) for key, value in self._items()}

    def changed(self) -> dict[str, Any]:
        """Returns the storable form of every attribute that is not as it was.

        Raises:
            StateError: If such an attribute can't be stored.
        """
        found = {}
        for key, value in self._items():
            token = self._token(value)
            before = self._baseline.get(key)
            if token == before:
                continue
            if not isinstance(token, bytes):
                raise StateError(
                    f"{self._name}.{key} changed during training and can't be saved "
                    f"({token.reason}); give {type(self.obj).__name__} the methods "
                    "state() and load_state(state), or set the attribute before "
                    "training begins"
                )
            found[key] = self._freeze(value)
        return found

    def apply(self, saved: Mapping[str, Any]) -> None:
        """Gives the object the saved attributes.

        Args:
            saved: What `changed` returned in another process.

        Raises:
            StateError: If an object that a value belongs into is not there.
        """
        for key, frozen in saved.items():
            live = getattr(self.obj, key, None)
            value = thaw(frozen, live, name=f"{self._name}.{key}")
            if value is not live:
                setattr(self.obj, key, value)

    def _items(self) -> list[tuple[str, Any]]:
        items = vars(self.obj).items()
        return [(key, value) for key, value in items if key not in self._ignored]

    def _freeze(self, value: Any) -> Any:
        return freeze(value, covered=self._covered)

    def _token(self, value: Any) -> bytes | _Opaque:
        """Returns what tells whether a value is still the same."""
        try:
            return encode(self._freeze(value))
        except NotStorable as error:
            return _Opaque(value, str(error))


class _Opaque:
    """Stands for a value that can't be stored: equal if it is the same object."""

    def __init__(self, value: Any, reason: str) -> None:
        self._value = value
        self.reason = reason

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Opaque) and self._value is other._value

    __hash__ = None  # type: ignore[assignment]


def freeze(
    value: Any,
    *,
    covered: Callable[[Any], bool] = lambda variable: False,
    _above: tuple[int, ...] = (),
) -> Any:
    """Returns a storable copy of a value, with objects' states as `InPlace`.

    Args:
        value: Anything.
        covered: Tells whether a variable is part of the state already.

    Raises:
        NotStorable: If a part of it can't be stored.
    """
    if id(value) in _above:
        raise NotStorable("it contains itself")
    above = (*_above, id(value))

    def inner(item: Any) -> Any:
        return freeze(item, covered=covered, _above=above)

    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return kind(inner(item) for item in value)
    if isinstance(value, dict) and kind.__module__ in ("builtins", "collections"):
        frozen = {key: inner(item) for key, item in value.items()}
        return kind(frozen) if kind is collections.OrderedDict else frozen
    state = _state_of(value, covered)
    if state is not None:
        return InPlace(state.kind, inner(state.state))
    if _is_plain_object(value):
        return InPlace("attributes", inner(dict(vars(value))))
    return value


def thaw(frozen: Any, live: Any, *, name: str) -> Any:
    """Returns the value that was frozen; objects get their state back in place.

    Args:
        frozen: What `freeze` returned.
        live: The value that is there now.
        name: What to call it in errors.

    Raises:
        StateError: If an object that a state belongs into is not there.
    """
    if isinstance(frozen, InPlace):
        _put_back(frozen, live, name)
        return live
    if isinstance(frozen, (list, tuple)) and _has_states(frozen):
        if not isinstance(live, (list, tuple)) or len(live) != len(frozen):
            raise StateError(f"{name} held {len(frozen)} objects when it was saved")
        pairs = enumerate(zip(frozen, live, strict=True))
        items = [
            thaw(item, held, name=f"{name}[{index}]") for index, (item, held) in pairs
        ]
        return live if all(a is b for a, b in zip(items, live, strict=True)) else items
    if isinstance(frozen, dict):
        before = live if isinstance(live, dict) else {}
        items_by_key = {
            key: thaw(item, before.get(key), name=f"{name}[{key!r}]")
            for key, item in frozen.items()
        }
        if not isinstance(live, dict):
            return items_by_key
        live.clear()
        live.update(items_by_key)
        return live
    return frozen


def _has_states(value: Any) -> bool:
    if isinstance(value, InPlace):
        return True
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, (list, tuple)) and any(map(_has_states, value))


def _state_of(value: Any, covered: Callable[[Any], bool]) -> InPlace | None:
    """Returns the state of an object of a known kind, None for others."""
    if isinstance(value, random.Random):
        return InPlace("random", value.getstate())
    if isinstance(value, np.random.Generator):
        return InPlace("generator", value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return InPlace("random_state", value.get_state(legacy=False))
    if isinstance(value, type):
        return None
    if callable(getattr(value, "state", None)) and hasattr(value, "load_state"):
        return InPlace("own", value.state())
    variables = [value] if is_variable(value) else variables_of(value)
    if variables:
        if all(map(covered, variables)):
            raise NotStorable("it belongs to the model")
        arrays = [tensorflow_variable(v).numpy() for v in variables]
        return InPlace("variables", arrays)
    return None


def _is_plain_object(value: Any) -> bool:
    """Returns whether an object is an instance of some user's class."""
    if isinstance(value, type) or callable(value) or not hasattr(value, "__dict__"):
        return False
    module = type(value).__module__
    return not f"{module}.".startswith(_LIBRARIES)


def _put_back(frozen: InPlace, live: Any, name: str) -> None:
    """Gives a live object its state.

    Raises:
        StateError: If the object is not there, or is another.
    """
    state = frozen.state
    try:
        if frozen.kind == "attributes":
            attributes = vars(live)
            for key, item in state.items():
                before = attributes.get(key)
                attributes[key] = thaw(item, before, name=f"{name}.{key}")
        elif frozen.kind == "random":
            live.setstate(state)
        elif frozen.kind == "generator":
            live.bit_generator.state = state
        elif frozen.kind == "random_state":
            live.set_state(state)
        elif frozen.kind == "own":
            live.load_state(state)
        else:
            variables = [live] if is_variable(live) else variables_of(live)
            for variable, array in zip(variables, state, strict=True):
                variable.assign(array)
    except (AttributeError, TypeError, ValueError) as error:
        raise StateError(
            f"{name} was saved as an object with a state ({frozen.kind}), and is now "
            f"a {type(live).__name__} that can't take it: {error}"
        ) from error
