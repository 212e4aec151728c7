"""Variables whose value differs from replica to replica.

    add_components(graph, optimizers=[...])    # the graph gets a node `replicas`
    holders = make_holders(inventory)          # to restore that node into
    assign_components(graph, holders)

TensorFlow saves one value for such a variable: the first replica's, or the sum or
mean. Keras' BatchNormalization statistics and metrics are of this kind. Each replica's
value is saved besides, as `replicas/<path of the variable>/<replica>`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.state.leaf import (
    is_variable,
    leaves_of,
    replica_components,
    tensorflow_variable,
)
from resumable_tf.state.object_graph import (
    ATTRIBUTES,
    Node,
    ObjectGraph,
    escape,
    unescape,
)

REPLICAS = "replicas"
"""Name of the node at the root of a checkpoint."""

_log = logging.getLogger(__name__)
Holders = dict[str, list[Any]]
"""Saved components by the path of their variable, in the order of replicas."""


def is_component_key(key: str) -> bool:
    """Returns whether a checkpoint key belongs to one replica's value."""
    return key.startswith(f"{REPLICAS}/")


def add_components(graph: ObjectGraph, *, shared: Collection[int]) -> None:
    """Adds each replica's value of the variables that differ between replicas.

    Args:
        graph: The live objects; gets a node `replicas` if there is need for one.
        shared: `id` of variables that are equal on all replicas by construction:
            weights under training and what belongs to optimizers.
    """
    top = Node(obj=None, path=REPLICAS)
    below = []
    for node in graph.nodes:
        if not is_variable(node.obj) or not _differs(node.obj, shared):
            continue
        owner = Node(obj=None, path=f"{REPLICAS}/{escape(node.path)}")
        below.append(owner)
        for index, component in enumerate(replica_components(node.obj)):
            path = f"{owner.path}/{index}"
            leaf = Node(obj=component, path=path, leaves=leaves_of(component))
            owner.children.append((str(index), leaf))
            below.append(leaf)
        top.children.append((node.path, owner))
    if top.children:
        graph.root.children.append((REPLICAS, top))
        graph.nodes.extend([top, *below])


def make_holders(inventory: Mapping[str, tuple[tuple[int, ...], str]]) -> Holders:
    """Returns variables to restore a checkpoint's components into.

    Args:
        inventory: Shape and dtype of every key of the checkpoint.
    """
    numbered: dict[str, dict[int, Any]] = {}
    for key, (shape, dtype) in inventory.items():
        if is_component_key(key):
            path, index = key.split(f"/{ATTRIBUTES}/")[0].split("/")[1:]
            value = tf.Variable(tf.zeros(shape, dtype), trainable=False)
            numbered.setdefault(unescape(path), {})[int(index)] = value
    return {
        path: [values[index] for index in sorted(values)]
        for path, values in numbered.items()
    }


def holder_module(holders: Holders) -> Any:
    """Returns the node to put at `replicas` while restoring."""
    top = tf.Module()
    for path, values in holders.items():
        owner = tf.Module()
        for index, value in enumerate(values):
            owner._track_trackable(value, str(index))
        top._track_trackable(owner, path)
    return top


def assign_components(graph: ObjectGraph, holders: Holders) -> None:
    """Gives each replica the value that it had.

    On another number of replicas the one value that TensorFlow saved stands, as its
    rule for the variable says (each replica gets the mean, or its share of the sum).

    Args:
        graph: The live objects, restored but for this.
        holders: The restored components.
    """
    for node in graph.nodes:
        if not is_variable(node.obj):
            continue
        live = replica_components(node.obj)
        saved = holders.get(node.path, [])
        if len(live) == len(saved):
            for component, value in zip(live, saved, strict=True):
                component.assign(value)
        elif saved or _is_on_read(tensorflow_variable(node.obj), live):
            _log.warning(
                "%s was saved on %d replicas and is restored on %d: "
                "the combined value is used",
                *(node.path, max(1, len(saved)), len(live)),
            )


def _differs(variable: Any, shared: Collection[int]) -> bool:
    """Returns whether the replicas' values of a variable are to be saved."""
    inner = tensorflow_variable(variable)
    components = replica_components(inner)
    if len(components) < 2:
        return False
    if _is_on_read(inner, components):
        return True
    if id(variable) in shared or inner.aggregation != tf.VariableAggregation.NONE:
        return False
    return not _all_equal(component.numpy() for component in components)


def _is_on_read(inner: Any, components: Sequence[Any]) -> bool:
    """Returns whether replicas write such a variable on their own, by design."""
    on_read = tf.VariableSynchronization.ON_READ
    return len(components) > 1 and bool(inner.synchronization == on_read)


def _all_equal(values: Iterable[Any]) -> bool:
    contents = {np.asarray(value).tobytes() for value in values}
    return len(contents) == 1
