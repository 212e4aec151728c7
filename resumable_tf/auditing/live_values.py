"""What lives in the process beside the training state, under readable names.

    found = live_values(covered=lambda variable: id(variable) in known, frame=frame)
    found["counter in make_step() of train.py"]     # ("value", "3f09...")

Looks at the user's own code only: closures, module globals, attributes of objects and
classes, local variables of running functions and generators. TensorFlow's variables are
looked for everywhere.
"""

from __future__ import annotations

import functools
import gc
import random
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.auditing.log import RANDOM, VARIABLE
from resumable_tf.auditing.tokens import (
    Token,
    digest,
    token,
    variable_digest,
    variables_in,
)
from resumable_tf.state._tensorflow import (
    eager_seed,
    global_generator,
    keras_seed_generator,
    tf_keras_generator,
)
from resumable_tf.state.leaf import tensorflow_variable
from resumable_tf.state.python_values import encode

_PACKAGE = str(Path(__file__).parent.parent)
_FOREIGN = ("site-packages", "dist-packages", "__autograph_generated_file")
_FUNCTION, _GENERATOR, _CLASS = "function", "generator", "class"
_INSTANCE, _VARIABLE, _KERAS_VARIABLE = "instance", "variable", "Keras variable"
_SEEDS = re.compile(r"seed_generator|StateVar")

Slot = tuple[str, Any]
"""A readable name and the value that it stands for."""


def live_values(
    *, covered: Callable[[Any], bool], frame: types.FrameType | None
) -> dict[str, Token]:
    """Returns kind and hash of each value beside the state, by its name.

    Args:
        covered: Tells whether a variable is part of the training state.
        frame: The innermost running function.
    """
    found: dict[str, Token] = {}
    claimed: set[int] = set()
    objects = _interesting()
    for name, value in [*_frames(frame), *_modules(), *_held(objects)]:
        one = token(value, covered=covered)
        if one is not None and found.get(name) != one:
            found[_free(found, name)] = one
            claimed.update(map(id, variables_in(value)))
    for name, variable in _variables(objects):
        text = None if covered(variable) else variable_digest(variable)
        if text is not None and id(variable) not in claimed:
            kind = RANDOM if _SEEDS.search(name) else VARIABLE
            found[_free(found, name)] = kind, text
    return {**found, **_global_generators()}


@functools.cache
def is_users(file: str | None) -> bool:
    """Returns whether a source file is the user's own."""
    if not file or file.startswith("<") or any(part in file for part in _FOREIGN):
        return False
    paths = sysconfig.get_paths()
    libraries = [paths[name] for name in ("stdlib", "platstdlib")] + [_PACKAGE]
    path = str(Path(file).resolve())
    return not any(path.startswith(f"{Path(p).resolve()}/") for p in libraries)


def _free(found: dict[str, Token], name: str) -> str:
    """Returns the name, numbered if it is taken."""
    number, free = 1, name
    while free in found:
        number += 1
        free = f"{name} #{number}"
    return free


def _in(name: str, code: types.CodeType, function: str) -> str:
    return f"{name} in {function}() of {Path(code.co_filename).name}"


def _frames(frame: types.FrameType | None) -> Iterator[Slot]:
    """Yields the local variables of the user's running functions."""
    while frame is not None:
        code = frame.f_code
        if is_users(code.co_filename) and code.co_name != "<module>":
            for name, value in list(frame.f_locals.items()):
                yield _in(name, code, code.co_name), value
        frame = frame.f_back


def _modules() -> Iterator[Slot]:
    """Yields the global variables of the user's modules."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(module, types.ModuleType) and is_users(file):
            for name, value in list(vars(module).items()):
                if not name.startswith("__"):
                    yield f"{name} of {Path(str(file)).name}", value


def _held(objects: Iterable[tuple[str, Any]]) -> Iterator[Slot]:
    """Yields what closures, generators, objects and classes of the user's hold."""
    cells: set[int] = set()
    for kind, obj in objects:
        if kind == _FUNCTION:
            yield from _of_function(obj, cells)
        elif kind == _GENERATOR:
            # Another thread may have ended it just now.
            inside = obj.gi_frame.f_locals if obj.gi_frame is not None else {}
            for name, value in list(inside.items()):
                yield _in(name, obj.gi_code, obj.gi_code.co_name), value
        elif kind == _CLASS and not obj.__name__.startswith("_"):
            yield from _attributes(obj, dict(vars(obj)))
        elif kind == _INSTANCE:
            yield from _attributes(type(obj), _own_attributes(obj))


def _of_function(function: types.FunctionType, cells: set[int]) -> Iterator[Slot]:
    """Yields a function's closure, each variable of it once, and its attributes."""
    code = function.__code__
    around = function.__qualname__.split(".<locals>")[-2:-1] or [""]
    outer = around[0].split(".")[-1]
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        if id(cell) in cells or name == "__class__":
            continue
        cells.add(id(cell))
        try:
            yield _in(name, code, outer), cell.cell_contents
        except ValueError:
            continue  # It is not assigned yet.
    file = Path(code.co_filename).name
    for name, value in vars(function).items():
        if not name.startswith("__"):
            yield f"{function.__name__}.{name} of {file}", value


def _own_attributes(obj: Any) -> dict[str, Any]:
    """Returns an object's attributes, past all that its class answers itself."""
    for kind in type(obj).__mro__:
        own = vars(kind).get("__dict__")
        if own is not None:
            is_pythons = isinstance(own, types.GetSetDescriptorType)
            return dict(own.__get__(obj)) if is_pythons else {}
    return {}  # It has slots.


def _attributes(kind: type, items: dict[str, Any]) -> Iterator[Slot]:
    file = Path(str(_users_file(kind.__module__))).name
    for name, value in items.items():
        if isinstance(name, str) and not name.startswith("__"):
            yield f"{kind.__name__}.{name} of {file}", value


@functools.cache
def _users_file(name: str) -> str | None:
    """Returns the file of a module of the user's, None of other modules."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    return file if is_users(file) else None


def _variables(objects: Iterable[tuple[str, Any]]) -> list[Slot]:
    """Returns TensorFlow's variables with their names, in the order of creation."""
    paths: dict[int, str | None] = {}
    variables = []
    for kind, obj in objects:
        if kind == _VARIABLE:
            variables.append(obj)
        elif kind == _KERAS_VARIABLE:
            # Past its property, which would call the initializer of an unbuilt one.
            paths[id(getattr(obj, "_value", None))] = getattr(obj, "path", None)
    # Another thread may be making one just now, without a name yet.
    named = [(paths.get(id(v)) or getattr(v, "name", None), v) for v in variables]
    found = [(f"variable {name}", variable) for name, variable in named if name]
    return sorted(found, key=lambda slot: _creation(slot[1]))


def _interesting() -> list[tuple[str, Any]]:
    """Returns the objects of the process that may hold something, with their sort.

    There are some 300,000 objects; each costs one look at its type.
    """
    found = []
    sorts: dict[type, str] = {}
    for obj in gc.get_objects():
        kind = type(obj)
        sort = sorts.get(kind)
        if sort is None:
            sort = sorts[kind] = _sort_of(kind)
        if sort == _FUNCTION:
            is_ours = is_users(obj.__code__.co_filename)
        elif sort == _GENERATOR:
            is_ours = obj.gi_frame is not None and is_users(obj.gi_code.co_filename)
        elif sort == _CLASS:
            is_ours = _users_file(obj.__module__) is not None
        else:
            is_ours = bool(sort)
        if is_ours:
            found.append((sort, obj))
    return found


def _sort_of(kind: type) -> str:
    if kind is types.FunctionType:
        return _FUNCTION
    if kind is types.GeneratorType:
        return _GENERATOR
    if issubclass(kind, type):
        return _CLASS
    if issubclass(kind, tf.Variable):
        return _VARIABLE
    if hasattr(kind, "_serialize_to_tensors") and hasattr(kind, "value"):
        return _KERAS_VARIABLE
    return _INSTANCE if _users_file(kind.__module__) else ""


def _creation(variable: Any) -> int:
    found = re.search(r"_(\d+)$", str(getattr(variable, "_unique_id", "")))
    return int(found.group(1)) if found else 0


def _global_generators() -> dict[str, Token]:
    """Returns the generators that Python, NumPy and TensorFlow have of their own."""
    states = {
        "the global generator of Python's random": repr(random.getstate()).encode(),
        "the global generator np.random": encode(np.random.get_state(legacy=False)),
    }
    _, own = eager_seed()
    if own is not None:
        states["the global generator tf.random"] = repr(own.getstate()).encode()
    of_tf_keras = tf_keras_generator()
    if of_tf_keras is not None:
        states["the global generator of tf_keras"] = repr(
            of_tf_keras.getstate()
        ).encode()
    found = {name: (RANDOM, digest(state)) for name, state in states.items()}
    for name, generator in (
        ("the global generator tf.random.get_global_generator()", global_generator()),
        ("the global generator of keras.random", keras_seed_generator()),
    ):
        text = None
        if generator is not None:
            text = variable_digest(tensorflow_variable(generator.state))
        if text is not None:
            found[name] = RANDOM, text
    return found
