"""What Python objects keep in their attributes, and how it has changed.

    states = ObjectStates({"EarlyStopping": callback})
    ...                                     # training
    saved = states.changed()                # {"EarlyStopping": {"wait": 3, ...}}
    states.apply(saved)                     # in the next process

Only attributes that changed since then count: what the user sets when the object is
made stays the user's. A save is tried out before it is given away: it is restorable,
or it is refused. Objects that the program makes by itself get their state back in
place, so that whoever else holds them sees it too; all others are made anew, and
nothing else is changed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from resumable_tf.errors import CheckpointMismatchError, StateError
from resumable_tf.state.freezing import Freezer
from resumable_tf.state.live_objects import LiveObjects, slots_of
from resumable_tf.state.memory import shared_memory
from resumable_tf.state.program_code import (
    ProgramCode,
    calling_modules,
    is_library,
)
from resumable_tf.state.python_values import decode, encode
from resumable_tf.state.thawing import Thawer
from resumable_tf.state.value_kinds import (
    Gone,
    MalformedValue,
    NotStorable,
)

_SMALL = 1 << 16
_PLAIN = (bool, int, float, complex, str, bytes, type(None), list, dict, set, tuple)
_REMEDY = (
    "give {kind} the methods state() and load_state(state), or keep numbers, strings, "
    "arrays, and lists and dictionaries of these"
)

Saved = dict[str, dict[str, Any]]
Covered = Callable[[Any], bool]


class _Token:
    """Tells whether an attribute is as it was, and what it was if that is short."""

    def __init__(self, form: Any) -> None:
        data = encode(form)
        self.digest = hashlib.blake2b(data).digest()
        self.data = data if len(data) <= _SMALL else None


class ObjectStates:
    """Follows the attributes of some objects."""

    def __init__(
        self,
        objects: Mapping[str, Any],
        *,
        ignored: Mapping[str, Collection[str]] | None = None,
        covered: Covered = lambda variable: False,
    ) -> None:
        """Remembers the attributes as they are now.

        Args:
            objects: Whose attributes to follow, by the names to call them in errors.
            ignored: Attributes of each that don't count.
            covered: Tells whether a variable is part of the state already.
        """
        self._live = LiveObjects(objects, ignored=ignored or {})
        self._covered = covered
        self._ignored = ignored or {}
        self._baseline = self._tokens(self._live.initial)
        self._modules = calling_modules()
        self._opaque = dict(self._freezer.opaque)
        self._of_classes = self._class_values()

    @functools.cached_property
    def _code(self) -> ProgramCode:
        return ProgramCode(
            self._live.objects(), kinds=self._live.kinds, modules=self._modules
        )

    def changed(self) -> Saved:
        """Returns the storable form of every attribute that is not as it was.

        Raises:
            StateError: If such an attribute can't be stored, or not be restored.
        """
        self._check_classes()
        self._freezer = freezer = self._new_freezer()
        saved: Saved = {}
        for name in self._live.roots:
            now = self._live.attributes(name)
            forms = {}
            for key, value in now.items():
                try:
                    form = freezer.value(value)
                    token = _Token(form)
                except NotStorable as error:
                    raise self._refusal(name, key, error) from error
                before = self._baseline[name].get(key)
                if before is None or before.digest != token.digest:
                    forms[key] = form
            forms.update((k, Gone()) for k in self._live.initial[name].keys() - now)
            saved[name] = forms
        self._check(saved)
        return saved

    def apply(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Gives the objects the saved attributes, and all others what they had.

        Args:
            saved: What `changed` returned, perhaps in another process; of some of the
                objects or of all.

        Raises:
            CheckpointMismatchError: If it is nothing that a save of these objects
                gives. Nothing is changed then.
        """
        try:
            thawer = Thawer(self._live, self._code, covered=self._covered)
            found = {
                name: thawer.attributes(name, self._whole(name, forms))
                for name, forms in saved.items()
            }
        except MalformedValue as error:
            raise CheckpointMismatchError(
                f"cannot restore what Python objects keep: {error}.\n"
                "The program has changed since the checkpoint was saved, or the "
                "checkpoint is not one of its own. Restore the program, or start a "
                "new run directory.",
                changed=[str(error)],
            ) from error
        thawer.commit()
        for name, values in found.items():
            for key, value in values.items():
                _set(self._live.roots[name], key, value)

    def _whole(self, name: str, forms: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the forms of what must be put back of an object.

        Beginning an epoch a second time may have changed what a save found unchanged.
        """
        whole = dict(forms)
        now = self._tokens({name: self._live.attributes(name)})[name]
        for key, before in self._baseline[name].items():
            token = now.get(key)
            if before is None or before.data is None or key in whole:
                continue
            if token is None or token.digest != before.digest:
                whole[key] = decode(before.data)
        for key in now.keys() - self._baseline[name].keys() - whole.keys():
            vars(self._live.roots[name]).pop(key, None)
        return whole

    def _new_freezer(self) -> Freezer:
        return Freezer(self._live, covered=self._covered)

    def _tokens(
        self, attributes: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, _Token | None]]:
        """Returns what tells whether attributes change; None of what has no form."""
        self._freezer = self._new_freezer()
        found: dict[str, dict[str, _Token | None]] = {}
        for name in self._live.roots:
            tokens = found.setdefault(name, {})
            for key, value in attributes.get(name, {}).items():
                try:
                    tokens[key] = _Token(self._freezer.value(value))
                except NotStorable:
                    tokens[key] = None
        return found

    def _check(self, saved: Saved) -> None:
        """Tries out whether a save can be restored.

        Raises:
            StateError: If it can't.
        """
        thawer = Thawer(self._live, self._code, covered=self._covered)
        for name, forms in saved.items():
            for key, form in forms.items():
                try:
                    thawer.attributes(name, {key: form})
                except MalformedValue as error:
                    raise self._refusal(name, key, error) from error
        changed = [
            place
            for place, text in self._freezer.opaque.items()
            if self._opaque.get(place, text) != text
        ]
        shared = shared_memory(self._freezer.made_arrays, self._freezer.held_arrays)
        if changed or shared:
            what = f"{changed[0]} changed" if changed else shared
            raise StateError(
                f"{what} during training and can't be saved; "
                + _REMEDY.format(kind="its owner")
            )

    def _refusal(self, name: str, key: str, error: Exception) -> StateError:
        kind = type(self._live.roots[name]).__name__
        return StateError(
            f"{name}.{key} changed during training and can't be saved so that it can "
            f"be restored ({error}); {_REMEDY.format(kind=kind)}, or set the attribute "
            "before training begins"
        )

    def _class_values(self) -> dict[tuple[type, str], bytes | None]:
        """Returns the values in the bodies of the users' classes."""
        kinds = {base for obj in self._live.objects() for base in type(obj).__mro__}
        users = [kind for kind in kinds if not is_library(kind.__module__)]
        found = {}
        for kind in users:
            slots = slots_of(kind)
            for key, value in list(vars(kind).items()):
                is_plain = type(value) in _PLAIN or isinstance(value, np.ndarray)
                if is_plain and key not in slots and not key.startswith("__"):
                    found[kind, key] = _class_token(value)
        return found

    def _check_classes(self) -> None:
        """Makes sure that no attribute of a class has changed.

        Raises:
            StateError: If one has: other objects see it, so it is nobody's state.
        """
        now = self._class_values()
        for (kind, key), before in self._of_classes.items():
            if now.get((kind, key)) != before:
                raise StateError(
                    f"{kind.__qualname__}.{key} is an attribute of the class, and "
                    "changed during training; give each object its own "
                    f"(self.{key} = ... in __init__)"
                )


def _class_token(value: Any) -> bytes | None:
    try:
        return encode(Freezer(LiveObjects({}, ignored={})).value(value))
    except NotStorable:
        return None


def _set(obj: Any, key: str, value: Any) -> None:
    """Sets or deletes an attribute, past what the class does when one is set."""
    slot = slots_of(type(obj)).get(key)
    if isinstance(value, Gone):
        if slot is not None:
            slot.__delete__(obj)
        else:
            vars(obj).pop(key, None)
    elif slot is not None:
        slot.__set__(obj, value)
    else:
        vars(obj)[key] = value


class AttributeTracker:
    """Follows the attributes of one object."""

    def __init__(
        self,
        obj: Any,
        *,
        name: str,
        ignored: Collection[str] = (),
        covered: Covered = lambda variable: False,
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
        self._states = ObjectStates(
            {name: obj}, ignored={name: ignored}, covered=covered
        )

    def changed(self) -> dict[str, Any]:
        """Returns the storable form of every attribute that is not as it was.

        Raises:
            StateError: If such an attribute can't be stored, or not be restored.
        """
        return self._states.changed()[self._name]

    def apply(self, saved: Mapping[str, Any]) -> None:
        """Gives the object the saved attributes.

        Args:
            saved: What `changed` returned, perhaps in another process.

        Raises:
            CheckpointMismatchError: If it is nothing that a save of this object gives.
                Nothing is changed then.
        """
        self._states.apply({self._name: saved})
