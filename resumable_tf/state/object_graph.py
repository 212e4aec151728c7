"""TensorFlow's object graph, walked and named as TensorFlow does it.

    graph = walk({"model": model, "optimizer": optimizer})
    [value.key for value in graph.values]
    # ["optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE", ...]

The walk gives every saved value under TensorFlow's own key, and what is needed to
build a second graph of the same form that holds other values (a mirror).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from resumable_tf.state.leaf import Leaf, is_variable, leaves_of

ATTRIBUTES = ".ATTRIBUTES"
_SLOTS = ".OPTIMIZER_SLOT"


@dataclasses.dataclass
class Node:
    """One object of the graph.

    Attributes:
        obj: The live object; None for the root.
        path: TensorFlow's path from the root, "" for the root.
        children: Names and nodes of the objects below, in TensorFlow's order.
        leaves: The object's own values.
        slots: For optimizers with slot variables: (name, original, slot).
    """

    obj: Any
    path: str
    children: list[tuple[str, Node]] = dataclasses.field(default_factory=list)
    leaves: list[Leaf] = dataclasses.field(default_factory=list)
    slots: list[tuple[str, Node, Node]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Value:
    """One saved value.

    Attributes:
        key: Its key in a checkpoint.
        node: The object that it belongs to.
        leaf: How to read it.
    """

    key: str
    node: Node
    leaf: Leaf


@dataclasses.dataclass(frozen=True)
class ObjectGraph:
    """All objects below a root, breadth first.

    Attributes:
        root: The node that the walk began with.
        nodes: Every node once, the root first, slot variables last.
    """

    root: Node
    nodes: list[Node]

    @property
    def values(self) -> list[Value]:
        """Every saved value, in the order of the walk."""
        return [
            Value(key_of(node, leaf), node, leaf)
            for node in self.nodes
            for leaf in node.leaves
        ]

    def identities(self) -> set[int]:
        """Returns `id(obj)` of every object in this graph."""
        return {id(node.obj) for node in self.nodes}


def key_of(node: Node, leaf: Leaf) -> str:
    """Returns the key in a checkpoint of one value of an object."""
    return f"{node.path}/{ATTRIBUTES}/{leaf.prefix}{escape(leaf.name)}"


def escape(name: str) -> str:
    """Returns a name as TensorFlow writes it into keys."""
    return name.replace(".", "..").replace("/", ".S")


def unescape(name: str) -> str:
    """Returns the name that `escape` was given."""
    return "/".join(part.replace("..", ".") for part in _split_slashes(name))


def walk(trackables: Mapping[str, Any]) -> ObjectGraph:
    """Returns the graph below `tf.train.Checkpoint(**trackables)`.

    Args:
        trackables: The objects at the root, by name.

    Raises:
        StateError: If the values of an object can't be captured.
    """
    # Wraps lists and dictionaries, and refuses what can't be tracked.
    checkpoint = tf.train.Checkpoint(**trackables)
    root = Node(obj=None, path="")
    nodes = [root]
    known: dict[int, Node] = {}
    queue = collections.deque([root])
    while queue:
        node = queue.popleft()
        for name, child in _children(node, checkpoint).items():
            below = known.get(id(child))
            if below is None:
                path = f"{node.path}/{escape(name)}" if node.path else escape(name)
                below = Node(obj=child, path=path, leaves=leaves_of(child))
                known[id(child)] = below
                nodes.append(below)
                queue.append(below)
            node.children.append((name, below))
    return ObjectGraph(root=root, nodes=nodes + _slot_nodes(nodes))


def add_variables(graph: ObjectGraph, name: str, variables: Mapping[str, Any]) -> None:
    """Adds variables at the root of a graph that does not reach them.

    Args:
        graph: Gets a node with the variables below it.
        name: Of that node.
        variables: By name.
    """
    top = Node(obj=None, path=escape(name))
    graph.root.children.append((name, top))
    graph.nodes.append(top)
    for label, variable in variables.items():
        path = f"{top.path}/{escape(label)}"
        node = Node(variable, path, leaves=leaves_of(variable))
        top.children.append((label, node))
        graph.nodes.append(node)


def _children(node: Node, checkpoint: Any) -> dict[str, Any]:
    obj = checkpoint if node.obj is None else node.obj
    children: dict[str, Any] = tf.train.TrackableView.children(obj)
    return children


def _slot_nodes(nodes: list[Node]) -> list[Node]:
    """Returns nodes for the slot variables of old optimizers, and links them."""
    found = []
    for optimizer in nodes:
        if optimizer.obj is None or is_variable(optimizer.obj):
            continue
        # dir(), as TensorFlow does, so as not to wake a custom __getattr__.
        if "get_slot_names" not in dir(optimizer.obj):
            continue
        for slot_name in optimizer.obj.get_slot_names():
            for original in nodes:
                slot = _slot(optimizer.obj, original.obj, slot_name)
                if slot is None:
                    continue
                path = f"{original.path}/{_SLOTS}/{optimizer.path}/{escape(slot_name)}"
                node = Node(obj=slot, path=path, leaves=leaves_of(slot))
                optimizer.slots.append((slot_name, original, node))
                found.append(node)
    return found


def _slot(optimizer: Any, original: Any, slot_name: str) -> Any:
    try:
        return optimizer.get_slot(original, slot_name)
    except (AttributeError, KeyError):
        return None


def _split_slashes(name: str) -> list[str]:
    """Splits at the ".S" that stand for a slash, not at those after a ".."."""
    parts, current, index = [], "", 0
    while index < len(name):
        pair = name[index : index + 2]
        if pair == ".S":
            parts.append(current)
            current = ""
        else:
            current += pair if pair == ".." else name[index]
        index += 2 if pair in {"..", ".S"} else 1
    return [*parts, current]
