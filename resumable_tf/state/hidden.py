"""State in the attributes of models that no checkpoint would hold.

    hidden = HiddenState({"model": model})      # before training
    hidden.check(graph)                         # at a save

Keras 3 hides lists from TensorFlow's object graph, and NumPy's generators are in
nobody's graph. Such a thing is named, not left out: a variable or `tf.random.Generator`
always, a Python or NumPy generator if it has been used since training began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from resumable_tf.errors import StateError
from resumable_tf.state.coverage import identities
from resumable_tf.state.leaf import is_variable, tensorflow_variable
from resumable_tf.state.object_graph import ObjectGraph
from resumable_tf.state.python_values import encode
from resumable_tf.state.random_states import RANDOM_GENERATORS, state_of


class HiddenState:
    """What models keep besides variables that TensorFlow or Keras knows."""

    def __init__(self, trackables: Mapping[str, Any], saved: Iterator[Any]) -> None:
        """Looks at the attributes of all modules and layers.

        Args:
            trackables: The objects of the state, by name.
            saved: Python objects that are saved on their own.
        """
        known = {id(obj) for obj in saved}
        self._generators: list[tuple[str, Any, bytes]] = []
        self._variables: list[tuple[str, Any]] = []
        for label, value in _attributes(trackables):
            if isinstance(value, RANDOM_GENERATORS) and id(value) not in known:
                self._generators.append((label, value, encode(state_of(value))))
            elif isinstance(value, tf.random.Generator):
                self._variables.append((label, value.state))
            elif is_variable(value):
                self._variables.append((label, value))

    def check(self, graph: ObjectGraph) -> None:
        """Compares with what is saved.

        Args:
            graph: The objects that a checkpoint holds.

        Raises:
            StateError: If something would be lost.
        """
        if not (self._variables or self._generators):
            return
        variables = (node.obj for node in graph.nodes if is_variable(node.obj))
        held = identities(map(tensorflow_variable, variables))
        lost = [
            label
            for label, variable in self._variables
            if not held & identities(iter([tensorflow_variable(variable)]))
        ]
        lost += [
            label
            for label, generator, before in self._generators
            if encode(state_of(generator)) != before
        ]
        lost.sort()
        if lost:
            raise StateError(
                f"{', '.join(lost)} changes in training and is not part of the "
                "training state; pass it to TrainState under a name of its own, or "
                "make it an attribute that Keras tracks (not in a list or dictionary)"
            )


def _attributes(trackables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the attributes of modules and layers, and what is in containers there."""
    for name, root in trackables.items():
        flatten = getattr(root, "_flatten_layers", None)
        if flatten is not None:
            owners = [root, *flatten()]
        else:  # tf_keras' recurrent layers can't list their submodules.
            owners = [root, *getattr(root, "submodules", ())]
        seen: set[int] = set()
        for owner in owners:
            is_module = isinstance(owner, tf.Module) or flatten is not None
            if id(owner) in seen or not is_module:
                continue
            seen.add(id(owner))
            label = name if owner is root else f"{name}: {getattr(owner, 'name', '')}"
            for key, value in vars(owner).items():
                if key.startswith("_"):
                    continue
                for item in _items(value):
                    yield f"{label}.{key} ({type(item).__name__})", item


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _items(item)
    else:
        yield value
