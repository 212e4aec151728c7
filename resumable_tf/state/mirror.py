"""A second object graph, of the form of the live objects'.

    mirrors = {id(node): Mirror() for node in graph.nodes}
    tf.train.Checkpoint(**link_mirrors(graph, mirrors))

TensorFlow saves and restores it as it would the live objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from resumable_tf.state.object_graph import ObjectGraph


class Mirror(tf.__internal__.tracking.Trackable):  # type: ignore[misc]
    """An object without values of its own, in the form of a live object."""

    def __init__(self) -> None:
        """Has nothing below it yet."""
        self._children: dict[str, Mirror] = {}
        self._slot_mirrors: dict[str, dict[int, Mirror]] = {}

    def add_child(self, name: str, child: Mirror) -> None:
        """Puts another mirror below this one."""
        self._children[name] = child

    def add_slot(self, name: str, original: Mirror, slot: Mirror) -> None:
        """Makes this mirror answer as an optimizer with slot variables."""
        self._slot_mirrors.setdefault(name, {})[id(original)] = slot

    def _trackable_children(
        self, save_type: str = "checkpoint", **_: Any
    ) -> dict[str, Mirror]:
        return self._children

    def get_slot_names(self) -> list[str]:
        """Returns the slots' names; TensorFlow asks while saving."""
        return list(self._slot_mirrors)

    def get_slot(self, original: Any, name: str) -> Any:
        """Returns one slot, None without; TensorFlow asks while saving."""
        return self._slot_mirrors[name].get(id(original))


def link_mirrors(graph: ObjectGraph, mirrors: Mapping[int, Any]) -> dict[str, Any]:
    """Puts mirrors below each other as the nodes of a graph are.

    Args:
        graph: The live objects.
        mirrors: By `id` of their nodes; what is no `Mirror` stands for itself, and for
            all below it.

    Returns:
        Those at the root, by name.
    """
    for node in graph.nodes:
        mirror = mirrors[id(node)]
        if not isinstance(mirror, Mirror):
            continue
        for name, child in node.children:
            mirror.add_child(name, mirrors[id(child)])
        for name, original, slot in node.slots:
            mirror.add_slot(name, mirrors[id(original)], mirrors[id(slot)])
    return {name: mirrors[id(node)] for name, node in graph.root.children}
