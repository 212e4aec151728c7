"""A consistent copy of a training state, which TensorFlow can write at leisure.

    snapshot = state.capture()              # on the training thread, milliseconds
    checkpoint = snapshot.checkpoint()      # a tf.train.Checkpoint, any thread
    checkpoint.write("/tmp/ckpt")
    snapshot.release()

The snapshot mirrors the object graph: inner objects become empty modules, objects
with values become modules that return the captured tensors. What TensorFlow writes
for the mirror it can restore into the live objects.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from resumable_tf.state.keras_objects import is_optimizer
from resumable_tf.state.leaf import (
    LEGACY_NAME,
    Leaf,
    is_variable,
    replica_components,
    wait_for_hosts,
)
from resumable_tf.state.mirror import Mirror, link_mirrors
from resumable_tf.state.object_graph import Node, ObjectGraph, key_of

Structure = tuple[Any, ...]


class _LeafMirror(Mirror):
    """An object with values: it returns the captured tensors."""

    def __init__(self, tensors: dict[str, Any], *, legacy_name: str) -> None:
        super().__init__()
        self._captured = tensors
        if legacy_name:
            setattr(self, LEGACY_NAME, legacy_name)

    def _serialize_to_tensors(self) -> dict[str, Any]:
        return dict(self._captured)

    def _restore_from_tensors(self, restored_tensors: dict[str, Any]) -> Any:
        raise NotImplementedError("a snapshot is written, never restored into")


class Snapshot:
    """The values of a training state at one step."""

    def __init__(self, graph: ObjectGraph) -> None:
        """Reads every value of the graph, now.

        Args:
            graph: The live objects.
        """
        self._graph = graph
        # Only this is done while the training waits; the rest can be found out later.
        self._captured = [
            {leaf.name: leaf.read() for leaf in node.leaves} for node in graph.nodes
        ]
        wait_for_hosts(value for one in self._captured for value in one.values())

    def leaves(self) -> dict[str, Leaf]:
        """Returns what was captured, by TensorFlow's key."""
        return {value.key: value.leaf for value in self._graph.values}

    def optimizers(self) -> dict[str, str]:
        """Returns the class of each optimizer, by its path in the object graph."""
        return optimizers_in(self._graph)

    def num_replicas(self) -> int:
        """Returns the largest number of replicas of a variable."""
        objects = (node.obj for node in self._graph.nodes)
        counts = (len(replica_components(obj)) for obj in objects if is_variable(obj))
        return max(counts, default=1)

    def dtypes(self) -> set[str]:
        """Returns TensorFlow's names of all dtypes."""
        return {leaf.dtype for node in self._graph.nodes for leaf in node.leaves}

    def checkpoint(self, *, is_empty: bool = False) -> Any:
        """Returns a `tf.train.Checkpoint` over the captured values.

        Args:
            is_empty: Whether it has empty tensors in their places.
        """
        nodes = self._graph.nodes
        captured = map(_empty_values, nodes) if is_empty else self._captured
        mirrors = {
            id(node): _mirror(node, values)
            for node, values in zip(nodes, captured, strict=True)
        }
        return tf.train.Checkpoint(**link_mirrors(self._graph, mirrors))

    def structure(self) -> Structure:
        """Returns all that TensorFlow's description of the objects depends on.

        Two snapshots of one structure differ in values, shapes and dtypes only.
        """
        nodes = self._graph.nodes
        numbers = {id(node): number for number, node in enumerate(nodes)}
        return tuple(
            (
                node.path,
                tuple((name, numbers[id(child)]) for name, child in node.children),
                tuple((leaf.prefix, leaf.name) for leaf in node.leaves),
                tuple(
                    (name, numbers[id(original)], numbers[id(slot)])
                    for name, original, slot in node.slots
                ),
            )
            for node in nodes
        )

    def take_values(self) -> dict[str, Any]:
        """Returns the captured tensors by key, and holds them no longer."""
        captured = zip(self._graph.nodes, self._captured, strict=True)
        values = {
            key_of(node, leaf): tensors.pop(leaf.name)
            for node, tensors in captured
            for leaf in node.leaves
        }
        return values

    def release(self) -> None:
        """Lets go of all captured values, in its checkpoints too."""
        for values in self._captured:
            values.clear()


def optimizers_in(graph: ObjectGraph) -> dict[str, str]:
    """Returns the class of each optimizer, by its path.

    Two of them may have the same variables (Adam and AdamW) and mean other things.
    """
    found = (node for node in graph.nodes if is_optimizer(node.obj))
    return {node.path: type(node.obj).__name__ for node in found}


def _mirror(node: Node, values: dict[str, Any]) -> Mirror:
    if not node.leaves:
        return Mirror()
    return _LeafMirror(values, legacy_name=node.leaves[0].prefix)


def _empty_values(node: Node) -> dict[str, Any]:
    return {leaf.name: tf.zeros([0], leaf.dtype) for leaf in node.leaves}
