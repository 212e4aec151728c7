"""Reads one object of a checkpoint, and nothing else of it.

    restore_object(path, "model", model)

TensorFlow's own way to leave the rest unread is a status that no longer checks
anything. Here the object must be there as a whole, with equal shapes and dtypes, and
is not touched before that is known.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from resumable_tf.errors import CheckpointMismatchError, StateError
from resumable_tf.state.keras_objects import variables_of
from resumable_tf.state.object_graph import Node, ObjectGraph, walk

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"


def restore_object(path: str, name: str, obj: Any) -> None:
    """Restores the object that was saved under `name` into `obj`.

    Args:
        path: Prefix of a checkpoint.
        name: Its name at the checkpoint's root, such as "model".
        obj: A live object of the same form.

    Raises:
        CheckpointMismatchError: If the checkpoint lacks values of `obj`, or has them
            with another shape or dtype.
        StateError: If TensorFlow's object graph does not reach all variables of
            `obj`, so that they were not saved under `name` either.
    """
    graph = walk({name: obj})
    _check_reached(name, obj, graph)
    reader = tf.train.load_checkpoint(path)
    saved = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        reader.get_tensor(_GRAPH_KEY)
    )
    keys, missing = _match(graph.root, saved)
    shapes, dtypes = (
        reader.get_variable_to_shape_map(),
        reader.get_variable_to_dtype_map(),
    )
    changed = []
    for node, key in keys:
        leaf = node.leaves[0]
        is_same = (tuple(shapes[key]), dtypes[key].name) == (leaf.shape, leaf.dtype)
        if not is_same:
            changed.append(
                f"{node.path}: saved {dtypes[key].name} {tuple(shapes[key])}, "
                f"now {leaf.dtype} {leaf.shape}"
            )
    if missing or changed:
        lines = [f"{node.path}: not in the checkpoint" for node in missing] + changed
        raise CheckpointMismatchError(
            f"{path} does not hold this {name}:\n  " + "\n  ".join(lines[:20]),
            missing=[node.path for node in missing],
            changed=changed,
        )
    for node, key in keys:
        node.obj.assign(reader.get_tensor(key))


def _check_reached(name: str, obj: Any, graph: ObjectGraph) -> None:
    """Refuses an object whose variables the graph does not all reach.

    Raises:
        StateError: If some are not.
    """
    reached = graph.identities()
    hidden = [v.name for v in variables_of(obj) if id(v) not in reached]
    if hidden:
        raise StateError(
            f"TensorFlow's object graph of {name!r} does not reach "
            f"{', '.join(hidden[:5])}: layers in a list of a Keras 3 model are not in "
            "it. Make each layer an attribute of its own."
        )


def _match(root: Node, saved: Any) -> tuple[list[tuple[Node, str]], list[Node]]:
    """Walks the live and the saved graph side by side.

    Returns:
        Each live variable with the key of its value, and those that have none.
    """
    found: list[tuple[Node, str]] = []
    missing: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Node, Any]] = [(root, saved.nodes[0])]
    while stack:
        node, entry = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.leaves:
            attributes = list(entry.attributes) if entry is not None else []
            if attributes:
                found.append((node, attributes[0].checkpoint_key))
            else:
                missing.append(node)
        links = (
            {} if entry is None else {c.local_name: c.node_id for c in entry.children}
        )
        for name, child in node.children:
            below = saved.nodes[links[name]] if name in links else None
            stack.append((child, below))
    return found, missing
