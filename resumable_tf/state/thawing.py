"""Values out of their storable forms, into the objects of a running program.

    thawer = Thawer(live, code)
    values = thawer.attributes("Sampler", saved)    # nothing is changed yet
    thawer.commit()                                 # what belongs into live objects

A form chooses among what the program has: a place among its objects, a class that its
code mentions, a member of an enumeration, a function of a closed list. Whatever does
not fit is refused before anything is changed.
"""

from __future__ import annotations

import collections
import enum
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from resumable_tf.errors import CheckpointMismatchError
from resumable_tf.state.freezing import Freezer
from resumable_tf.state.known_functions import function_named
from resumable_tf.state.leaf import tensorflow_variable
from resumable_tf.state.live_objects import (
    BAGS,
    CONTAINERS,
    LiveObjects,
    has_own_state,
    held_variables,
    is_object,
    put_attributes,
)
from resumable_tf.state.made_objects import base_of, make, put_content, why_not_made
from resumable_tf.state.program_code import ProgramCode, class_name
from resumable_tf.state.python_values import decode, encode
from resumable_tf.state.random_states import check, fits, put
from resumable_tf.state.random_states import make as make_generator
from resumable_tf.state.value_kinds import (
    MARKS,
    Generator,
    Gone,
    Held,
    Made,
    MalformedValue,
    Named,
    NotStorable,
)

_MISSING = object()
_SHARED = (*CONTAINERS, np.ndarray, bytearray)


class Thawer:
    """Puts the forms of one save back."""

    def __init__(
        self,
        live: LiveObjects,
        code: ProgramCode,
        *,
        covered: Callable[[Any], bool] = lambda _: False,
    ) -> None:
        """Begins with nothing.

        Args:
            live: What was there when training began.
            code: What the program's code assigns and mentions.
            covered: Tells whether a variable is part of the state already.
        """
        self._live = live
        self._code = code
        self._covered = covered
        self._made: dict[int, tuple[Any, Any]] = {}
        self._put: set[str] = set()
        self._actions: list[Callable[[], None]] = []
        self._last_actions: list[Callable[[], None]] = []

    def attributes(self, name: str, forms: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of attributes that changed; `Gone` for deleted ones.

        Args:
            name: Of the object, one of the roots.
            forms: What a freezer made of them.

        Raises:
            MalformedValue: If no save of this object has written that.
        """
        root = self._live.roots[name]
        initial, writes = self._live.initial[name], self._code.writes(root)
        found = {}
        for key, form in forms.items():
            label = f"{name}.{key}"
            held = self._live.at(form.place) if isinstance(form, Held) else _MISSING
            if held is not initial.get(key) and key not in writes:
                raise MalformedValue(
                    f"{label} is set, which the program's code assigns nowhere "
                    "in training"
                )
            is_known = key in initial or not isinstance(form, Gone)
            if not _is_name(key) or not is_known:
                raise MalformedValue(f"{label} is no attribute that can change")
            found[key] = form if isinstance(form, Gone) else self.value(form, label)
        return found

    def commit(self) -> None:
        """Changes the live objects.

        Raises:
            CheckpointMismatchError: If an object does not take its own state.
        """
        for action in [*self._actions, *self._last_actions]:
            action()

    def value(self, form: Any, label: str) -> Any:
        """Returns the value of a form.

        Args:
            form: What a freezer made.
            label: What to call it in errors.

        Raises:
            MalformedValue: If it does not fit the running program.
        """
        if id(form) in self._made:
            return self._made[id(form)][1]
        if isinstance(form, Held):
            return self._held(form, label)
        if isinstance(form, Named):
            return self._named(form, label)
        if isinstance(form, Gone):
            raise MalformedValue(f"{label} is deleted inside a value")
        made = self._new(form, label)
        if isinstance(form, (*_SHARED, *MARKS)):
            self._made[id(form)] = form, made
        return made

    def _new(self, form: Any, label: str) -> Any:
        if isinstance(form, Generator):
            check(form)
            return make_generator(form)
        if isinstance(form, Made):
            return self._object(form, label)
        if isinstance(form, np.ndarray):
            return form.copy(order="K")
        if isinstance(form, bytearray):
            return bytearray(form)
        if isinstance(form, dict):
            return self._dict(form, label)
        if isinstance(form, slice):
            parts = (form.start, form.stop, form.step)
            return slice(*(self.value(part, label) for part in parts))
        if type(form) in (list, tuple, collections.deque, set, frozenset):
            items = [self.value(item, f"{label}[{i}]") for i, item in enumerate(form)]
            if isinstance(form, collections.deque):
                return collections.deque(items, form.maxlen)
            return _hashed(lambda: type(form)(items), len(items), label)
        return form

    def _dict(self, form: Any, label: str) -> Any:
        pairs = [
            (
                self.value(key, f"a key of {label}"),
                self.value(item, f"{label}[{key!r}]"),
            )
            for key, item in form.items()
        ]
        found = type(form)()
        try:
            for key, item in pairs:
                found[key] = item
        except TypeError as error:
            raise MalformedValue(f"{label} can't hold it: {error}") from error
        if len(found) != len(pairs):
            raise MalformedValue(f"{label} has a key twice")
        if isinstance(form, collections.defaultdict):
            factory = form.default_factory
            if isinstance(factory, MARKS):
                factory = self.value(factory, f"{label}.default_factory")
            if factory is not None and not callable(factory):
                raise MalformedValue(f"{label}.default_factory is no function")
            found.default_factory = factory
        return found

    def _named(self, form: Named, label: str) -> Any:
        if form.kind == "function":
            found = function_named(form.of)
            if found is None or form.names:
                raise MalformedValue(f"{label} is the unknown function {form.of!r}")
            return found
        kind = self._code.class_named(form.of)
        if not isinstance(kind, enum.EnumMeta):
            raise MalformedValue(
                f"{label} is of the enumeration {form.of}, which the program's code "
                "does not mention"
            )
        members: Mapping[str, Any] = kind.__members__
        unknown = [name for name in form.names if name not in members]
        if unknown or (len(form.names) != 1 and not issubclass(kind, enum.Flag)):
            raise MalformedValue(f"{label}: {form.of} has no member {unknown}")
        if len(form.names) == 1:
            return members[form.names[0]]
        total = 0
        for name in form.names:
            total |= members[name].value
        return kind(total)

    def _object(self, form: Made, label: str) -> Any:
        kind = self._code.class_named(form.of)
        if kind is None:
            raise MalformedValue(
                f"{label} is of the class {form.of}, which the program's code does "
                "not mention, or mentions two of"
            )
        reason = why_not_made(kind)
        if reason is not None:
            raise MalformedValue(f"{label} is {reason}")
        may_have = self._code.makes(kind)
        for key in form.attributes:
            if not _is_name(key) or not (kind in BAGS or key in may_have):
                raise MalformedValue(f"{label}.{key} is no attribute of {form.of}")
        content = self._content(form, kind, label)
        values = {
            key: self.value(item, f"{label}.{key}")
            for key, item in form.attributes.items()
        }
        try:
            return make(kind, content, values)
        except TypeError as error:
            raise MalformedValue(f"{label}: no {form.of} can be made") from error

    def _content(self, form: Made, kind: type, label: str) -> Any:
        """Returns what a new object is as its builtin base."""
        base = base_of(kind)
        if base is None:
            expected: Any = type(None)
        else:
            expected = dict if issubclass(base, dict) else base
        fields = getattr(kind, "_fields", None) if base is tuple else None
        is_alike = type(form.base) is expected
        if is_alike and fields is not None:
            is_alike = len(form.base) == len(fields)
        if not is_alike:
            raise MalformedValue(f"{label} does not fit {form.of}")
        return self.value(form.base, label)

    def _held(self, form: Held, label: str) -> Any:
        live = self._live.at(form.place)
        if live is None:
            raise MalformedValue(
                f"{label} is the object that was {form.place} when training began, "
                "and there is none"
            )
        self._made[id(form)] = form, live
        if form.kind == "kept" and form.state is None:
            return live
        if form.place in self._put or form.place in self._live.roots:
            raise MalformedValue(f"{form.place} is given two states")
        self._put.add(form.place)
        if form.kind == "own":
            self._own(form, live)
        elif form.kind == "variables":
            self._variables(form, live)
        elif form.kind == "value":
            self._in_place(form, live)
        else:
            raise MalformedValue(f"{label} has a state of an unknown kind")
        return live

    def _own(self, form: Held, live: Any) -> None:
        if not has_own_state(live) or type(form.state) is not bytes:
            raise MalformedValue(f"{form.place} has no method load_state()")
        state = decode(form.state, marks=False)
        self._last_actions.append(lambda: load_own_state(live, state, form.place))

    def _variables(self, form: Held, live: Any) -> None:
        variables = held_variables(live)
        is_list = type(form.state) is list and len(form.state) == len(variables)
        if not is_list or all(map(self._covered, variables)):
            raise MalformedValue(f"{form.place} has other variables")
        for variable, array in zip(variables, form.state, strict=True):
            inner = tensorflow_variable(variable)
            is_alike = isinstance(array, (np.ndarray, np.generic, bytes))
            found = np.asarray(array)
            is_alike = is_alike and inner.dtype.as_numpy_dtype == found.dtype.type
            if not is_alike or not inner.shape.is_compatible_with(found.shape):
                raise MalformedValue(f"a variable of {form.place} is of another kind")
            self._actions.append(functools.partial(inner.assign, array))

    def _in_place(self, form: Held, live: Any) -> None:
        """Takes what an object has become, if that can have become of it."""
        state, place = form.state, form.place
        if isinstance(state, Generator):
            check(state)
            if not fits(state, live):
                raise MalformedValue(f"{place} is another random generator")
            self._actions.append(lambda: put(state, live))
        elif isinstance(state, Made):
            self._attributes(form, live)
        elif type(state) is not type(live) or not isinstance(state, _SHARED):
            raise MalformedValue(
                f"{place} was a {type(state).__name__}, and is a {type(live).__name__}"
            )
        elif isinstance(state, np.ndarray):
            is_alike = state.dtype == live.dtype and state.shape == live.shape
            if not is_alike or not live.flags.writeable:
                raise MalformedValue(f"{place} has changed its shape or its dtype")
            self._actions.append(lambda: np.copyto(live, state))
        elif isinstance(state, bytearray):
            self._actions.append(lambda: live.__setitem__(slice(None), state))
        else:
            self._content_in_place(state, live, place)

    def _content_in_place(self, state: Any, live: Any, place: str) -> None:
        content = self.value(state, place)
        if getattr(content, "maxlen", None) != getattr(live, "maxlen", None):
            raise MalformedValue(f"{place} has another maxlen")

        def act() -> None:
            put_content(live, content)
            if isinstance(live, collections.defaultdict):
                live.default_factory = content.default_factory

        self._actions.append(act)

    def _attributes(self, form: Held, live: Any) -> None:
        """Takes the attributes of an object of the user's."""
        made, place, kind = form.state, form.place, type(live)
        if not is_object(live) or made.of != class_name(kind):
            raise MalformedValue(
                f"{place} was a {made.of}, and is a {class_name(kind)}"
            )
        params = getattr(kind, "__dataclass_params__", None)
        writes = self._code.writes(live)
        if params is not None and params.frozen:
            writes = set()
        initial = self._live.initial.get(place, {})
        for key in made.attributes.keys() | initial.keys():
            if key in writes or (kind in BAGS and _is_name(key)):
                continue
            same = self._is_same(made.attributes.get(key, _MISSING), initial.get(key))
            if key not in initial or not same:
                raise MalformedValue(
                    f"{place}.{key} is set, which the program's code assigns nowhere "
                    "in training"
                )
        content = self._content(made, kind, place)
        values = {
            key: self.value(item, f"{place}.{key}")
            for key, item in made.attributes.items()
        }

        def act() -> None:
            put_content(live, content)
            put_attributes(live, values)

        self._actions.append(act)

    def _is_same(self, form: Any, initial: Any) -> bool:
        """Returns whether a form stands for what an attribute was at the beginning."""
        if isinstance(form, Held):
            return self._live.at(form.place) is initial
        try:
            before = Freezer(self._live, covered=self._covered).value(initial)
            return form is not _MISSING and encode(form) == encode(before)
        except NotStorable:
            return False


def _is_name(key: str) -> bool:
    return key.isidentifier() and not (key.startswith("__") and key.endswith("__"))


def _hashed(make_it: Callable[[], Any], count: int, label: str) -> Any:
    try:
        found = make_it()
    except TypeError as error:
        raise MalformedValue(f"{label} can't hold it: {error}") from error
    if len(found) != count:
        raise MalformedValue(f"{label} holds something twice")
    return found


def load_own_state(obj: Any, state: Any, name: str) -> None:
    """Gives an object what its own method load_state() is to take.

    Raises:
        CheckpointMismatchError: If it does not take it.
    """
    try:
        obj.load_state(state)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointMismatchError(
            f"load_state() of {name} ({type(obj).__qualname__}) does not take what "
            f"its state() gave when the checkpoint was saved: {error!r}"
        ) from error
