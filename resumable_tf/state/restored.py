"""A checkpoint's values into the live objects, a bounded part of them at a time.

    restore_values(graph, path, inventory)

`tf.train.Checkpoint.restore` reads everything before it assigns anything: a second copy
of the state. So variables of one device are read here, in groups, and TensorFlow
restores the other objects only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from resumable_tf.state.leaf import (
    checkpoint_options,
    host_device,
    is_variable,
    tensorflow_variable,
)
from resumable_tf.state.mirror import Mirror, link_mirrors
from resumable_tf.state.object_graph import Node, ObjectGraph, Value

GROUP_BYTES = 256 * 2**20
"""Read at once, unless one value alone is larger."""
Inventory = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of every key of a checkpoint."""


def is_of_one_device(graph: ObjectGraph) -> bool:
    """Returns whether no variable has a part on each of several replicas."""
    values = (tensorflow_variable(node.obj) for node in graph.nodes)
    return not any(isinstance(v, tf.distribute.DistributedValues) for v in values)


def restore_values(graph: ObjectGraph, path: str, inventory: Inventory) -> None:
    """Restores objects of one device.

    Args:
        graph: The live objects.
        path: The checkpoint's prefix, on a file system TensorFlow can read.
        inventory: What it holds.

    Raises:
        AssertionError: If an object or a value finds no counterpart.
    """
    missing = {value.key for value in graph.values}.symmetric_difference(inventory)
    if missing:
        raise AssertionError(f"{path} is of other objects: {sorted(missing)[:5]}")
    variables = [value for value in graph.values if is_variable(value.node.obj)]
    for group in _groups(variables, inventory):
        _assign(group, path, inventory)
    others = [n for n in graph.nodes if n.leaves and not is_variable(n.obj)]
    if others:
        _restore_others(graph, path, others)


def _assign(group: list[Value], path: str, inventory: Inventory) -> None:
    keys = [value.key for value in group]
    with tf.device(host_device()):
        tensors = tf.raw_ops.RestoreV2(
            prefix=path,
            tensor_names=keys,
            shape_and_slices=[""] * len(keys),
            dtypes=[inventory[key][1] for key in keys],
        )
    for value in group:
        # With its tensor let go of, the variable may take over the memory.
        variable = tensorflow_variable(value.node.obj)
        variable.assign(tensors.pop(0), read_value=False)


def _restore_others(graph: ObjectGraph, path: str, others: Iterable[Node]) -> None:
    """Lets TensorFlow restore what is no variable, strictly."""
    mirrors: dict[int, Any] = {id(node): Mirror() for node in graph.nodes}
    mirrors.update((id(node), node.obj) for node in others)
    checkpoint = tf.train.Checkpoint(**link_mirrors(graph, mirrors))
    status = checkpoint.restore(path, checkpoint_options())
    status.assert_existing_objects_matched()


def _groups(values: Iterable[Value], inventory: Inventory) -> Iterator[list[Value]]:
    group: list[Value] = []
    num_bytes = 0
    for value in values:
        shape, dtype = inventory[value.key]
        size = math.prod(shape) * tf.as_dtype(dtype).size
        if group and num_bytes + size > GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
        group.append(value)
        num_bytes += size
    if group:
        yield group
