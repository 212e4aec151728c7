"""What the code of a program's objects assigns, and which classes it makes.

    code = ProgramCode([callback])
    code.writes(callback)               # {"wait", "best"}: attributes of it
    code.class_named("train:Record")    # the class, if the code mentions it

A checkpoint may change what training changes, and nothing else. Which attributes that
are is read off the compiled code of the running program, so that no file can name
others: a setting that is assigned in `__init__` only stays what the program says.
Nothing is imported or called here.
"""

from __future__ import annotations

import dis
import functools
import re
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

# What is over before anything is followed.
_BEFORE = {"__init__", "__new__", "__post_init__"}
_BEFORE |= {"on_train_begin", "set_model", "set_params"}
_BY_TEXT = {"setattr", "delattr", "__setattr__", "__delattr__", "__dict__", "vars"}
_LIBRARIES = {
    "keras",
    "tf_keras",
    "tensorflow",
    "numpy",
    "resumable_tf",
    "absl",
    "google",
    "ml_dtypes",
}
_LIBRARIES |= set(sys.stdlib_module_names) - {"__main__"}
_MAX_FUNCTIONS = 5000
_WORD = re.compile(r"[^\W\d]\w*")


def is_library(module: str | None) -> bool:
    """Returns whether a module is Python's, TensorFlow's, Keras' or NumPy's."""
    return str(module).split(".")[0] in _LIBRARIES


def class_name(kind: type) -> str:
    """Returns module and name of a class."""
    return f"{kind.__module__}:{kind.__qualname__}"


def calling_modules() -> set[str]:
    """Returns the names of the user's modules from which this is called."""
    found = set()
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if not _is_installed(frame.f_code):
            found.add(str(frame.f_globals.get("__name__")))
        frame = frame.f_back
    return {name for name in found if not is_library(name)}


class ProgramCode:
    """The code of some objects' classes, and the user's code that it calls."""

    def __init__(
        self,
        objects: Iterable[Any],
        *,
        kinds: Iterable[type] = (),
        modules: Iterable[str] = (),
    ) -> None:
        """Reads the code.

        Args:
            objects: Instances, classes and functions of the running program.
            kinds: Classes of values that it has.
            modules: Names of modules whose code belongs to it too.
        """
        self._own: dict[type, set[str]] = {}
        self._of_users: set[str] = set()
        self._of_modules: set[str] = set()
        self._modules: set[str] = set()
        self._classes: dict[str, type | None] = {}
        self._queue: list[types.FunctionType] = []
        self._seen: set[int] = set()
        for obj in objects:
            if isinstance(obj, type):
                self._mention(obj)
            elif isinstance(obj, types.FunctionType):
                self._queue.append(obj)
            else:
                self._add_class(type(obj), without=_BEFORE)
                self._name(type(obj))
        self._follow()
        for module in modules:
            self._add_module(module)
        for kind in kinds:
            self._name(kind)

    def writes(self, obj: Any) -> set[str]:
        """Returns the attributes that the program's code may assign to an object."""
        found = self._own.get(type(obj), set()) | self._of_users
        # A class of Keras is not meant by a name that a module of the user's uses.
        return found if is_library(type(obj).__module__) else found | self._of_modules

    def makes(self, kind: type) -> set[str]:
        """Returns the attributes that a new object of a class may have."""
        fields = getattr(kind, "__dataclass_fields__", {})
        found = set(fields) | self._of_users | self._of_modules
        for base in kind.__mro__:
            for value in vars(base).values():
                for function in functions_in(value):
                    found |= assigned(function.__code__)
        return found

    def class_named(self, name: str) -> type | None:
        """Returns a class that the code mentions, None if there is none, or two."""
        return self._classes.get(name)

    def _name(self, kind: type) -> None:
        name = class_name(kind)
        known = self._classes.setdefault(name, kind)
        if known is not kind:
            self._classes[name] = None

    def _mention(self, kind: type) -> None:
        """Takes a class of which the program may make objects."""
        is_new = self._classes.get(class_name(kind)) is None
        self._name(kind)
        if not is_new:
            return
        self._add_class(kind, without=set())
        for base in kind.__mro__:
            for text in getattr(base, "__annotations__", {}).values():
                self._add_annotation(text, base)

    def _add_annotation(self, annotation: Any, kind: type) -> None:
        if isinstance(annotation, type):
            self._value(annotation)
        namespace = vars(sys.modules.get(kind.__module__, types))
        for word in _WORD.findall(str(annotation)):
            self._value(namespace.get(word))

    def _value(self, value: Any) -> None:
        """Takes what a name of the program's code stands for."""
        if isinstance(value, type):
            if not is_library(value.__module__) or hasattr(value, "__members__"):
                self._mention(value)
        elif isinstance(value, types.FunctionType):
            if not is_library(value.__module__) and not _is_installed(value.__code__):
                self._queue.append(value)

    def _add_class(self, kind: type, *, without: set[str]) -> None:
        """Takes a class' methods; those that run too early if others call them."""
        if kind in self._own and without:
            return
        names: set[str] = set()
        left: dict[str, list[types.FunctionType]] = {}
        used: set[str] = set()
        queue: list[types.FunctionType] = []
        for base in kind.__mro__:
            self._add_module(base.__module__)
            for name, value in vars(base).items():
                if isinstance(value, functools.cached_property):
                    names.add(value.attrname or name)
                if isinstance(value, type):
                    self._value(value)
                found = list(functions_in(value))
                (left.setdefault(name, []) if name in without else queue).extend(found)
        while queue:
            function = queue.pop()
            names |= assigned(function.__code__)
            used |= mentioned(function.__code__)
            if not is_library(function.__module__):
                self._queue.append(function)
            for name in used & left.keys():
                queue.extend(left.pop(name))
        self._own.setdefault(kind, set()).update(names)

    def _add_module(self, name: str) -> None:
        """Takes what else stands in the module of a user's class."""
        if name in self._modules or is_library(name):
            return
        self._modules.add(name)
        for value in list(vars(sys.modules.get(name, types)).values()):
            self._value_of_module(value, name)

    def _value_of_module(self, value: Any, module: str) -> None:
        if isinstance(value, type):
            self._value(value)
        if getattr(value, "__module__", None) != module:
            return
        if isinstance(value, types.FunctionType):
            self._of_modules |= assigned(value.__code__)
        elif isinstance(value, type):
            for name, item in list(vars(value).items()):
                for function in functions_in(item) if name not in _BEFORE else ():
                    self._of_modules |= assigned(function.__code__)

    def _follow(self) -> None:
        """Goes through the user's functions, and those that they call."""
        while self._queue and len(self._seen) < _MAX_FUNCTIONS:
            function = self._queue.pop()
            if id(function) in self._seen:
                continue
            self._seen.add(id(function))
            self._of_users |= assigned(function.__code__)
            namespaces = [function.__globals__]
            names = mentioned(function.__code__)
            for name in names:
                value = namespaces[0].get(name)
                if not isinstance(value, types.ModuleType):
                    continue
                if not is_library(value.__name__):
                    namespaces.append(vars(value))
            for namespace in namespaces:
                for name in names:
                    self._value(namespace.get(name))
            for value in held_by(function):
                self._value(value)


def functions_in(value: Any) -> Iterator[types.FunctionType]:
    """Yields the functions that an attribute of a class stands for."""
    if isinstance(value, types.FunctionType):
        yield value
        for inner in held_by(value):
            if isinstance(inner, types.FunctionType) and inner is not value:
                yield inner
    elif isinstance(value, (staticmethod, classmethod)):
        yield from functions_in(value.__func__)
    elif isinstance(value, property):
        for part in (value.fget, value.fset, value.fdel):
            yield from functions_in(part)
    elif isinstance(value, functools.cached_property):
        yield from functions_in(value.func)


def held_by(function: types.FunctionType) -> Iterator[Any]:
    """Yields what a function has in its closure and its defaults."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            continue  # It is not assigned yet.
    yield from function.__defaults__ or ()


def _is_installed(code: types.CodeType) -> bool:
    file = code.co_filename
    return "site-packages" in file or "dist-packages" in file


@functools.cache
def assigned(code: types.CodeType) -> frozenset[str]:
    """Returns the attributes that a piece of code assigns or deletes, of anything."""
    found = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_ATTR", "DELETE_ATTR"):
            found.add(str(instruction.argval))
    by_text = not _BY_TEXT.isdisjoint(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found |= assigned(const)
        elif by_text:
            texts = const if isinstance(const, tuple) else (const,)
            found |= {text for text in texts if isinstance(text, str)}
    return frozenset(found)


@functools.cache
def mentioned(code: types.CodeType) -> frozenset[str]:
    """Returns the names that a piece of code looks up."""
    found = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found |= mentioned(const)
    return frozenset(found)
