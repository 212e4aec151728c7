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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.auditing.log import RANDOM, VARIABLE
from resumable_tf.auditing.tokens import Token, digest, token, variable_digest
from resumable_tf.state.leaf import (
    is_keras_variable,
    is_variable,
    tensorflow_variable,
)
from resumable_tf.state.python_values import encode

_PACKAGE = str(Path(__file__).parent.parent)
_FOREIGN = ("site-packages", "dist-packages", "__autograph_generated_file")
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
    objects = gc.get_objects()
    for name, value in [*_frames(frame), *_modules(), *_held(objects)]:
        one = token(value, covered=covered)
        if one is not None and one not in _of_name(found, name):
            found[_free(found, name)] = one
        if one is not None and is_variable(value):
            claimed.add(id(tensorflow_variable(value)))
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


def _of_name(found: dict[str, Token], name: str) -> list[Token]:
    """Returns what is known under a name; the same variable is met several times."""
    return [found[name]] if name in found else []


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


def _held(objects: list[Any]) -> Iterator[Slot]:
    """Yields what closures, generators, objects and classes of the user's hold."""
    cells: set[int] = set()
    for obj in objects:
        kind = type(obj)
        if kind is types.FunctionType:
            if is_users(obj.__code__.co_filename):
                yield from _of_function(obj, cells)
        elif kind is types.GeneratorType:
            if obj.gi_frame is not None and is_users(obj.gi_code.co_filename):
                for name, value in list(obj.gi_frame.f_locals.items()):
                    yield _in(name, obj.gi_code, obj.gi_code.co_name), value
        elif issubclass(kind, type):
            if _module_file(obj) and not obj.__name__.startswith("_"):
                yield from _attributes(obj, obj, dict(vars(obj)))
        elif _module_file(kind) and hasattr(obj, "__dict__"):
            yield from _attributes(obj, kind, dict(vars(obj)))


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


def _attributes(obj: Any, kind: Any, items: dict[str, Any]) -> Iterator[Slot]:
    file = Path(str(_module_file(kind))).name
    for name, value in items.items():
        if isinstance(name, str) and not name.startswith("__"):
            yield f"{kind.__name__}.{name} of {file}", value


def _module_file(kind: type) -> str | None:
    """Returns the file of a class of the user's, None of other classes."""
    return _users_file(str(getattr(kind, "__module__", None)))


@functools.cache
def _users_file(name: str) -> str | None:
    """Returns the file of a module of the user's, None of other modules."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    return file if is_users(file) else None


def _variables(objects: list[Any]) -> list[Slot]:
    """Returns TensorFlow's variables with their names, in the order of creation."""
    paths: dict[int, str] = {}
    variables: dict[int, Any] = {}
    for obj in objects:
        kind = type(obj)
        if issubclass(kind, tf.Variable):
            variables[id(obj)] = obj
        elif _is_keras_kind(kind) and is_keras_variable(obj):
            paths[id(obj.value)] = getattr(obj, "path", obj.name)
    ordered = sorted(variables.values(), key=_creation)
    return [(f"variable {paths.get(id(v), v.name)}", v) for v in ordered]


def _is_keras_kind(kind: type) -> bool:
    return hasattr(kind, "_serialize_to_tensors") and hasattr(kind, "value")


def _creation(variable: Any) -> int:
    found = re.search(r"_(\d+)$", str(getattr(variable, "_unique_id", "")))
    return int(found.group(1)) if found else 0


def _global_generators() -> dict[str, Token]:
    """Returns the generators that Python, NumPy and TensorFlow have of their own."""
    from tensorflow.python.eager import context

    states = {
        "the global generator of Python's random": repr(random.getstate()).encode(),
        "the global generator np.random": encode(np.random.get_state(legacy=False)),
    }
    own = getattr(context.context(), "_rng", None)
    if isinstance(own, random.Random):
        states["the global generator tf.random"] = repr(own.getstate()).encode()
    return {name: (RANDOM, digest(state)) for name, state in states.items()}
