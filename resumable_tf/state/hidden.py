"""State in the attributes of models that TensorFlow's object graph does not reach.

    for label, variable in hidden_variables({"model": model}):
        label               # "model.layers[2].sums['kernel'][0]"

Keras 3 hides lists, dictionaries and tuples from TensorFlow, and nobody looks into
plain Python objects. Variables in these are part of the state like all others; Python's
and NumPy's generators there are refused once they have been used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from resumable_tf.errors import StateError
from resumable_tf.state.keras_objects import members, variables_of
from resumable_tf.state.leaf import is_variable, tensorflow_variable
from resumable_tf.state.object_graph import ObjectGraph
from resumable_tf.state.python_values import encode
from resumable_tf.state.random_states import RANDOM_GENERATORS, state_of

UNTRACKED = "untracked"
"""Root name of Keras' variables that TensorFlow's object graph does not reach."""

ATTRIBUTES_ROOT = "attributes"
"""Root name, in a checkpoint, of the variables that are found here."""

COUNTERS = (
    "_steps_per_execution",
    "_train_counter",
    "_test_counter",
    "_predict_counter",
)
"""What tf_keras keeps in the form of variables, and sets itself in each call."""

_KERAS = {"keras", "tf_keras"}
_LIBRARIES = _KERAS | {"tensorflow", "numpy", "builtins", "collections", "functools"}
_LIBRARIES |= {"threading", "weakref", "logging", "pathlib", "types", "_io"}
_CONTAINERS = (list, tuple, set, frozenset)
_MAX_ITEMS, _MAX_DEPTH = 10_000, 8


class HiddenGenerators:
    """Python's and NumPy's generators in the attributes of models."""

    def __init__(self, trackables: Mapping[str, Any], saved: Iterator[Any]) -> None:
        """Notes their states.

        Args:
            trackables: The objects of the state, by name.
            saved: Python objects that are saved on their own.
        """
        known = {id(obj) for obj in saved}
        self._generators = [
            (label, value, encode(state_of(value)))
            for label, value in _attributes(trackables)
            if isinstance(value, RANDOM_GENERATORS) and id(value) not in known
        ]

    def check(self) -> None:
        """Compares with what they are now.

        Raises:
            StateError: If one was used, so that its state would be lost.
        """
        lost = [
            f"{label} ({type(generator).__name__})"
            for label, generator, before in self._generators
            if encode(state_of(generator)) != before
        ]
        if lost:
            raise StateError(
                f"{', '.join(sorted(lost))} changes in training and is not part of the "
                "training state; pass it to TrainState under a name of its own"
            )


def hidden_variables(trackables: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the variables in attributes of models, layers and modules, each once.

    Args:
        trackables: The objects of the state, by name.
    """
    found: dict[int, tuple[str, Any]] = {}
    for label, value in _attributes(trackables):
        for name, variable in _variables(label, value):
            found.setdefault(id(variable), (name, variable))
    return list(found.values())


def variables_beside(
    graph: ObjectGraph, objects: Iterable[Any], hidden: Iterable[tuple[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Returns the variables that TensorFlow's object graph does not reach.

    Args:
        graph: It.
        objects: The objects of the state.
        hidden: What `hidden_variables` returned.

    Returns:
        Variables by name, by the root under which a checkpoint has them: Keras' own by
        number, those in attributes by a readable name.
    """
    reached = graph.identities()
    found: dict[int, Any] = {}
    for variable in (variable for obj in objects for variable in variables_of(obj)):
        if id(variable) not in reached:
            found.setdefault(id(variable), variable)
    nodes = [*(node.obj for node in graph.nodes), *found.values()]
    held = {id(node) for node in nodes}
    held |= {id(tensorflow_variable(node)) for node in nodes if is_variable(node)}
    inside = {
        label: variable
        for label, variable in hidden
        if not held & {id(variable), id(tensorflow_variable(variable))}
    }
    numbered = {str(index): one for index, one in enumerate(found.values())}
    roots = {UNTRACKED: numbered, ATTRIBUTES_ROOT: inside}
    return {name: variables for name, variables in roots.items() if variables}


def counters_of(objects: Iterable[Any]) -> list[Any]:
    """Returns the variables that Keras keeps for itself."""
    attributes = [vars(obj) for obj in objects if hasattr(type(obj), "__dict__")]
    return [found[name] for found in attributes for name in COUNTERS if name in found]


def _variables(label: str, value: Any) -> list[tuple[str, Any]]:
    if is_variable(value):
        return [(label, value)]
    if isinstance(value, tf.random.Generator) or _is_seed_generator(value):
        return [(label, value.state)]
    if not (isinstance(value, tf.Module) or _is_of_keras(value)):
        return []
    own = variables_of(value)
    return [(f"{label}.variables[{index}]", one) for index, one in enumerate(own)]


def _attributes(trackables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields what is in the attributes of modules and layers, however deep."""
    seen: set[int] = set()
    for name, root in trackables.items():
        for index, owner in enumerate(members([root])):
            label = name if owner is root else f"{name}[{index}]"
            yield from _of_owner(label, owner, seen)


def _of_owner(label: str, root: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    flatten = getattr(root, "_flatten_layers", None) if _is_of_keras(root) else None
    if flatten is None and not isinstance(root, tf.Module):
        return
    # tf_keras' recurrent layers can't list their submodules.
    below = list(flatten()) if flatten is not None else list(root.submodules)
    owners = [(label, root)] + [
        (f"{label}.layers[{index}]", layer) for index, layer in enumerate(below)
    ]
    for path, owner in owners:
        if id(owner) not in seen:
            seen.add(id(owner))
            yield from _inside(path, owner, seen, 0)


def _inside(
    label: str, owner: Any, seen: set[int], depth: int
) -> Iterator[tuple[str, Any]]:
    for key, value in list(vars(owner).items()):
        # TensorFlow's own notes of what it tracks hold even what was deleted.
        if key not in COUNTERS and not key.startswith("_self_"):
            yield from _items(f"{label}.{key}", value, seen, depth + 1)


def _items(
    label: str, value: Any, seen: set[int], depth: int
) -> Iterator[tuple[str, Any]]:
    if depth > _MAX_DEPTH or value is None or isinstance(value, (str, bytes, type)):
        return
    if isinstance(value, Mapping):
        pairs = [(f"{label}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, _CONTAINERS):
        pairs = [(f"{label}[{index}]", item) for index, item in enumerate(value)]
    else:
        yield label, value
        if _is_of_a_user(value) and id(value) not in seen:
            seen.add(id(value))
            yield from _inside(label, value, seen, depth)
        return
    if id(value) in seen or len(pairs) > _MAX_ITEMS:
        return
    seen.add(id(value))
    for name, item in pairs:
        yield from _items(name, item, seen, depth + 1)


def _packages(value: Any) -> set[str]:
    return {kind.__module__.split(".")[0] for kind in type(value).__mro__}


def _is_of_keras(value: Any) -> bool:
    return bool(_packages(value) & _KERAS)


def _is_seed_generator(value: Any) -> bool:
    return type(value).__name__ == "SeedGenerator" and _is_of_keras(value)


def _is_of_a_user(value: Any) -> bool:
    """Returns whether to look into the attributes of a plain Python object."""
    if callable(value) or not isinstance(
        getattr(type(value), "__dict__", None), Mapping
    ):
        return False
    if type(value).__module__.split(".")[0] in _LIBRARIES:
        return False
    # A class without a dictionary has slots; one of a library knows what it does.
    return not isinstance(value, tf.Module) and "__dict__" in dir(type(value))
