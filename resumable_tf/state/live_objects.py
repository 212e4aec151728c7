"""The objects that a program makes by itself at each start, by where they are.

    live = LiveObjects({"Sampler": callback})
    live.place_of(callback.rows)        # "Sampler.rows"
    live.at("Sampler.rows")             # the same object in the next process

What training changes in place is put back in place, so that whoever else holds the
object sees it; what it makes anew is made anew. Which of the two it is, identity
tells: an object that was there when training began has a place here.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import fractions
import functools
import pathlib
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.state.keras_objects import variables_of
from resumable_tf.state.leaf import is_variable
from resumable_tf.state.program_code import is_library
from resumable_tf.state.random_states import RANDOM_GENERATORS

_MAX_DEPTH = 60
_FRAMEWORKS = {"keras", "tf_keras", "tensorflow"}
_NUMBERS = (bool, int, float, complex, str, bytes, type(None), type(...))
_VALUES: tuple[Any, ...] = (
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    slice,
)
_VALUES += (fractions.Fraction, pathlib.PurePath, range, np.generic, enum.Enum)
CONTAINERS = (list, dict, set, collections.deque)
BAGS: tuple[Any, ...] = (types.SimpleNamespace, argparse.Namespace)
BAGS += (collections.UserDict, collections.UserList)
"""Classes of Python that only hold what the user gives them."""


class LiveObjects:
    """What some objects hold when training begins.

    Attributes:
        roots: The objects themselves, by name.
        initial: The attributes that objects had, by place.
        kinds: The classes of all values.
    """

    def __init__(
        self, roots: Mapping[str, Any], *, ignored: Mapping[str, Collection[str]]
    ) -> None:
        """Walks over the objects.

        Args:
            roots: The objects, by name.
            ignored: Attributes of each that don't count.
        """
        self.roots = dict(roots)
        self.initial: dict[str, dict[str, Any]] = {}
        self.kinds: set[type] = set()
        self._ignored = ignored
        self._objects: dict[str, Any] = {}
        self._places: dict[int, str] = {}
        self._codes: dict[int, str] = {}
        for name, root in self.roots.items():
            self._add(name, root)
        for name in self.roots:
            self.initial[name] = self.attributes(name)
            for key, value in self.initial[name].items():
                self._walk(f"{name}.{key}", value, 0)

    def attributes(self, name: str) -> dict[str, Any]:
        """Returns the attributes of a root that count, as they are now."""
        ignored = self._ignored.get(name, ())
        items = attributes_of(self.roots[name]).items()
        return {key: value for key, value in items if key not in ignored}

    def place_of(self, value: Any) -> str | None:
        """Returns where an object was when training began, None if it was not."""
        place = self._places.get(id(value))
        if place is None and isinstance(value, types.FunctionType):
            # Made by a function that was there: `lambda: defaultdict(lambda: 0)`.
            return self._codes.get(id(value.__code__)) if _is_bare(value) else None
        return place

    def at(self, place: str) -> Any:
        """Returns the object that was at a place, None if there was none."""
        return self._objects.get(place)

    def objects(self) -> Iterator[Any]:
        """Yields all of them."""
        yield from self._objects.values()

    def _add(self, place: str, value: Any) -> bool:
        if id(value) in self._places or place in self._objects:
            return False
        # Held for good, so that no other object gets its identity.
        self._objects[place] = value
        self._places[id(value)] = place
        return True

    def _walk(self, place: str, value: Any, depth: int) -> None:
        self.kinds.add(type(value))
        if type(value) in _NUMBERS or isinstance(value, _VALUES):
            return
        if tf.is_tensor(value) and not is_variable(value):
            return
        is_tuple = isinstance(value, (tuple, frozenset))
        if not is_tuple and not self._add(place, value):
            return
        if depth >= _MAX_DEPTH or is_whole(value):
            return
        if isinstance(value, types.FunctionType):
            self._walk_code(place, value.__code__, value.__globals__)
        if is_object(value):
            self.initial[place] = attributes_of(value)
        for label, child in _children(value):
            self._walk(f"{place}{label}", child, depth + 1)

    def _walk_code(
        self, place: str, code: types.CodeType, namespace: dict[str, Any]
    ) -> None:
        """Takes the functions that a function makes out of nothing."""
        for index, const in enumerate(code.co_consts):
            if not isinstance(const, types.CodeType) or const.co_freevars:
                continue
            made = types.FunctionType(const, namespace, const.co_name)
            inner = f"{place}.<{const.co_name} {index}>"
            if self._add(inner, made):
                self._codes[id(const)] = inner
                self._walk_code(inner, const, namespace)


def _is_bare(function: types.FunctionType) -> bool:
    return not (
        function.__closure__ or function.__defaults__ or function.__kwdefaults__
    )


def is_whole(value: Any) -> bool:
    """Returns whether an object is kept or restored as one, not by its parts."""
    if isinstance(value, (type, types.ModuleType, np.ndarray, bytearray)):
        return True
    if isinstance(value, RANDOM_GENERATORS) or has_own_state(value):
        return True
    if isinstance(value, (types.FunctionType, functools.partial)):
        return False
    is_plain = isinstance(value, (*CONTAINERS, tuple, frozenset))
    return not is_plain and not is_object(value)


def has_own_state(value: Any) -> bool:
    """Returns whether an object's class has methods state() and load_state()."""
    kind = type(value)
    names = ("state", "load_state")
    return all(callable(getattr(kind, name, None)) for name in names)


def held_variables(value: Any) -> list[Any]:
    """Returns the variables that an object of TensorFlow or Keras is or has."""
    if is_variable(value):
        return [value]
    if _is_tensorflows(type(value)) and hasattr(type(value), "variables"):
        return [v for v in variables_of(value) if is_variable(v)]
    return []


def is_object(value: Any) -> bool:
    """Returns whether a value is an instance of a user's class, or a bag."""
    kind = type(value)
    if isinstance(value, (type, enum.Enum, types.ModuleType, *RANDOM_GENERATORS)):
        return False
    if has_own_state(value):
        return False
    if hasattr(kind, "set_model") and hasattr(kind, "on_epoch_end"):
        return True  # A callback inside another.
    if is_library(kind.__module__):
        return kind in BAGS
    return not _is_tensorflows(kind)


def _is_tensorflows(kind: type) -> bool:
    modules = (base.__module__.split(".")[0] for base in kind.__mro__)
    return not _FRAMEWORKS.isdisjoint(modules)


def attributes_of(value: Any) -> dict[str, Any]:
    """Returns the attributes of an object, those in slots included."""
    found = {
        name: slot.__get__(value)
        for name, slot in slots_of(type(value)).items()
        if _is_set(slot, value)
    }
    found.update(getattr(value, "__dict__", {}))
    return found


def slots_of(kind: type) -> dict[str, Any]:
    """Returns what `__slots__` has made of a class and its bases."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if not is_library(base.__module__):
            items = vars(base).items()
            is_slot = types.MemberDescriptorType
            found.update((k, v) for k, v in items if isinstance(v, is_slot))
    return found


def put_attributes(value: Any, attributes: Mapping[str, Any]) -> None:
    """Gives an object its attributes, past whatever its class does when one is set."""
    slots = slots_of(type(value))
    for name, slot in slots.items():
        if name not in attributes and _is_set(slot, value):
            slot.__delete__(value)
    for name, item in attributes.items():
        if name in slots:
            slots[name].__set__(value, item)
    if hasattr(value, "__dict__"):
        namespace = vars(value)
        kept = {k: v for k, v in attributes.items() if k not in slots}
        for name in namespace.keys() - kept.keys():
            del namespace[name]
        namespace.update(kept)


def _is_set(slot: Any, value: Any) -> bool:
    try:
        slot.__get__(value)
    except AttributeError:
        return False
    return True


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in dict.items(value):
            if type(key) in _NUMBERS or isinstance(key, enum.Enum):
                yield f"[{key!r}]", item
    elif isinstance(value, (list, tuple, collections.deque)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    if isinstance(value, collections.defaultdict):
        yield ".default_factory", value.default_factory
    if isinstance(value, functools.partial):
        yield ".func", value.func
        for index, item in enumerate(value.args):
            yield f".args[{index}]", item
        for key, item in value.keywords.items():
            yield f".keywords[{key!r}]", item
    if is_object(value):
        for key, item in attributes_of(value).items():
            yield f".{key}", item
