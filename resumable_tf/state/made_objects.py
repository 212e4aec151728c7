"""New objects of classes that a running program has: data, and nothing but data.

    why_not_made(Record)                        # None: a dataclass
    make(Record, None, {"loss": 0.5})           # without its __init__

No code of the class runs: neither `__new__` nor `__init__`, no property, no
`__setattr__`. Classes with `__del__` are none of these, since that would run later.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from resumable_tf.state.live_objects import BAGS, put_attributes
from resumable_tf.state.program_code import is_library

_BASES: tuple[Any, ...] = (collections.OrderedDict, collections.Counter, dict, list)
_BASES += (set, frozenset, tuple, collections.deque, str, bytes, int, float)
_ADVICE = "make it when the callback is made, or make it a dataclass"


def base_of(kind: type) -> Any:
    """Returns the builtin type that a class extends, None if there is none."""
    return next((base for base in _BASES if issubclass(kind, base)), None)


def why_not_made(kind: type) -> str | None:
    """Returns why objects of a class can't be made anew, None if they can."""
    name = f"a {kind.__module__}.{kind.__qualname__} that was made in training"
    if kind in BAGS:
        return None
    if any("__del__" in vars(base) for base in kind.__mro__):
        return f"{name}, and has __del__"
    base = base_of(kind)
    if base is None and not dataclasses.is_dataclass(kind):
        return f"{name}: {_ADVICE}"
    foreign = [
        other
        for other in kind.__mro__
        if is_library(other.__module__) and other not in (*_BASES, object)
    ]
    if [other for other in foreign if other.__module__ not in ("typing", "abc")]:
        return f"{name}, of a class of {foreign[0].__module__}"
    return None


def make(kind: type, content: Any, attributes: Mapping[str, Any]) -> Any:
    """Returns a new object with a content and attributes.

    Args:
        kind: A class of which `why_not_made` says nothing.
        content: What it is as its builtin base.
        attributes: All of its attributes.

    Raises:
        TypeError: If the class makes no objects.
    """
    base = base_of(kind)
    new: Callable[..., Any] = object.__new__ if base is None else base.__new__
    if base in (str, bytes, int, float, tuple, frozenset):
        made = new(kind, content)
    else:
        made = new(kind)
    if base is collections.deque:
        collections.deque.__init__(made, (), content.maxlen)
    if base is not None:
        put_content(made, content)
    put_attributes(made, attributes)
    return made


def put_content(value: Any, content: Any) -> None:
    """Gives a container the content of another, in place; values stay as they are."""
    if isinstance(value, list):
        list.__setitem__(value, slice(None), content)
    elif isinstance(value, collections.OrderedDict):
        collections.OrderedDict.clear(value)
        for key, item in content.items():
            collections.OrderedDict.__setitem__(value, key, item)
    elif isinstance(value, dict):
        dict.clear(value)
        dict.update(value, content)
    elif isinstance(value, set):
        items = list(content)
        set.clear(value)
        set.update(value, items)
    elif isinstance(value, collections.deque):
        collections.deque.clear(value)
        collections.deque.extend(value, content)
