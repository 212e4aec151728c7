"""The storable form of what a program's objects hold.

    freezer = Freezer(live, covered=covered)
    freezer.value(callback.best)        # 0.25, or a mark of `value_kinds`

An object that was there when training began is named by its place and given with what
it has become; all others are given whole. One freezer serves one save, so that an
object that two attributes hold is given once and is one object again afterwards.
"""

from __future__ import annotations

import collections
import enum
import hashlib
import itertools
import operator
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from resumable_tf.state.known_functions import name_of_function
from resumable_tf.state.leaf import tensorflow_variable
from resumable_tf.state.live_objects import (
    CONTAINERS,
    LiveObjects,
    attributes_of,
    has_own_state,
    held_variables,
    is_object,
)
from resumable_tf.state.made_objects import base_of, why_not_made
from resumable_tf.state.program_code import class_name
from resumable_tf.state.python_values import encode
from resumable_tf.state.random_states import RANDOM_GENERATORS, can_be_made, state_of
from resumable_tf.state.value_kinds import Held, Made, Named, NotStorable

_ATOMS = (bool, int, float, complex, str, bytes, type(None))
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, np.ufunc, type)
_ITERATORS: tuple[Any, ...] = (
    itertools.count,
    types.GeneratorType,
    type(iter([])),
    type(iter(())),
    type(iter(range(0))),
)


class Freezer:
    """Makes the storable forms of one save.

    Attributes:
        made_arrays: Those that training has made.
        held_arrays: Those that were there when training began.
        opaque: What tells whether objects without a form change, by place.
    """

    def __init__(
        self, live: LiveObjects, *, covered: Callable[[Any], bool] = lambda _: False
    ) -> None:
        """Begins with nothing.

        Args:
            live: What was there when training began.
            covered: Tells whether a variable is part of the state already.
        """
        self._live = live
        self._covered = covered
        self.made_arrays: list[np.ndarray[Any, Any]] = []
        self.opaque: dict[str, str] = {}
        self.held_arrays: list[np.ndarray[Any, Any]] = []
        # The objects too, so that none goes and leaves its identity to another.
        self._given: dict[int, tuple[Any, Any]] = {}
        for name, root in live.roots.items():
            self._given[id(root)] = root, Held(name, "kept", None)

    def value(self, value: Any) -> Any:
        """Returns the storable form of a value.

        Raises:
            NotStorable: If it, or a part of it, has none.
        """
        if type(value) in _ATOMS or isinstance(value, np.generic):
            return value
        if isinstance(value, enum.Enum):
            return _member(value)
        if id(value) in self._given:
            form = self._given[id(value)][1]
            if form is None:
                raise NotStorable("it contains itself")
            return form
        place = self._live.place_of(value)
        if place is not None:
            return self._held(place, value)
        if type(value) in (tuple, frozenset):
            return type(value)(map(self.value, value))
        self._given[id(value)] = value, None
        form = self._new(value)
        self._given[id(value)] = value, form
        return form

    def _held(self, place: str, value: Any) -> Held:
        """Returns what an object has become that was there when training began."""
        kept = Held(place, "kept", None)
        self._given[id(value)] = value, kept
        if isinstance(value, RANDOM_GENERATORS):
            is_stateless = isinstance(value, random.SystemRandom)
            return kept if is_stateless else Held(place, "value", state_of(value))
        if has_own_state(value):
            return Held(place, "own", own_state(value))
        variables = held_variables(value)
        if variables:
            if all(map(self._covered, variables)):
                return kept
            arrays = [tensorflow_variable(v).numpy() for v in variables]
            return Held(place, "variables", arrays)
        if isinstance(value, np.ndarray):
            self.held_arrays.append(value)
        if type(value) is bytearray or has_array_form(value):
            return Held(place, "value", self._plain(value))
        if type(value) in CONTAINERS:
            return Held(place, "value", self._plain(value))
        if isinstance(value, dict) and type(value).__module__ == "collections":
            return Held(place, "value", self._plain(value))
        if is_object(value) and not isinstance(value, np.ndarray):
            return Held(place, "value", self._object(value))
        text = _fingerprint(value)
        if text is not None:
            self.opaque[place] = text
        return kept

    def _new(self, value: Any) -> Any:
        """Returns an object that training has made.

        Raises:
            NotStorable: If it can't be made again.
        """
        if isinstance(value, RANDOM_GENERATORS) and can_be_made(value):
            return state_of(value)
        name = name_of_function(value)
        if name is not None:
            return Named("function", name, ())
        kind = type(value)
        if isinstance(value, _FUNCTIONS) or isinstance(value, types.MethodType):
            name = getattr(value, "__qualname__", repr(value))
            raise NotStorable(f"the function or class {name} came in training")
        if held_variables(value):
            raise NotStorable(f"a {kind.__qualname__} that was made in training")
        if is_object(value):
            reason = why_not_made(kind)
            if reason is not None:
                raise NotStorable(reason)
            return self._object(value)
        if isinstance(value, np.ndarray):
            self.made_arrays.append(value)
        return self._plain(value)

    def _object(self, value: Any) -> Made:
        attributes = attributes_of(value)
        base = base_of(type(value))
        content = None
        if base is not None:
            content = self._plain(_content(value, base))
        frozen = {key: self.value(item) for key, item in attributes.items()}
        return Made(class_name(type(value)), content, frozen)

    def _plain(self, value: Any) -> Any:
        """Returns a container with the forms of what it holds, or a value as it is."""
        kind = type(value)
        if kind in (list, set, tuple, frozenset):
            return kind(map(self.value, value))
        if kind is collections.deque:
            return collections.deque(map(self.value, value), value.maxlen)
        if kind is slice:
            return slice(*map(self.value, (value.start, value.stop, value.step)))
        if isinstance(value, dict) and kind.__module__ in ("builtins", "collections"):
            pairs = [(self.value(k), self.value(v)) for k, v in value.items()]
            if kind is not collections.defaultdict:
                found: Any = kind()
                for key, item in pairs:
                    found[key] = item
                return found
            made: Any = collections.defaultdict(None, pairs)
            factory = getattr(value, "default_factory", None)
            is_known = factory in (None, *_FACTORIES)
            made.default_factory = factory if is_known else self.value(factory)
            return made
        return value


def has_array_form(value: Any) -> bool:
    """Returns whether a value is an array that has an exact form as bytes."""
    if type(value) is not np.ndarray:
        return False
    try:
        encode(value[tuple(slice(0, 1) for _ in value.shape)])
        if value.dtype.hasobject:
            encode(value)
    except NotStorable:
        return False
    return True


_FACTORIES = (bool, int, float, str, list, dict, set, tuple)


def own_state(value: Any) -> bytes:
    """Returns what an object's state() gives, as bytes.

    Raises:
        NotStorable: If that is not made of plain values.
    """
    try:
        return encode(value.state())
    except NotStorable as error:
        raise NotStorable(
            f"state() of {type(value).__qualname__} gives what has no form: {error}"
        ) from error


def _content(value: Any, base: type) -> Any:
    """Returns what an instance of a subclass of a builtin type is as that type."""
    if issubclass(base, dict):
        return dict(base.items(value))
    if base is collections.deque:
        return collections.deque(value, value.maxlen)
    if base in (list, set, frozenset, tuple):
        return base(base.__iter__(value))
    if base is str:
        return str.__str__(value)
    if base is bytes:
        return bytes.__getitem__(value, slice(None))
    return (int if base is int else float).__pos__(value)


def _member(value: enum.Enum) -> Named:
    """Returns a member of an enumeration by its name, flags by those of their parts.

    Raises:
        NotStorable: If the value is made of more than members.
    """
    kind = type(value)
    members = kind.__members__
    names: tuple[str, ...] = (str(value.name),)
    if not isinstance(value, enum.Flag) or members.get(names[0]) is value:
        if members.get(names[0]) is not value:
            raise NotStorable(f"{value!r} is no member of {kind.__qualname__}")
        return Named("enum", class_name(kind), names)
    parts = {
        name: member
        for name, member in members.items()
        if member.value and member.value & value.value == member.value
    }
    total = 0
    for member in parts.values():
        total |= member.value
    if total != value.value:
        raise NotStorable(f"{value!r} has bits of no member of {kind.__qualname__}")
    return Named("enum", class_name(kind), tuple(parts))


def _fingerprint(value: Any) -> str | None:
    """Returns what tells whether an object without a form is as it was, if possible."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return hashlib.blake2b(np.ascontiguousarray(value).tobytes()).hexdigest()
    if isinstance(value, np.ndarray):
        return repr(value.tolist())
    if isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        return "over" if frame is None else str(frame.f_lasti)
    if isinstance(value, itertools.count):
        return repr(value)
    if isinstance(value, _ITERATORS):
        return str(operator.length_hint(value))
    if isinstance(value, (list, dict, set, collections.deque)):
        return repr(value)  # Of a class of TensorFlow's, as tf.Module makes them.
    return None
