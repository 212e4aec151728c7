"""A checkpoint's values into the live objects, a bounded part of them at a time.

    restore_values(graph, path, inventory)

`tf.train.Checkpoint.restore` reads everything before it assigns anything: a second copy
of the state. So variables of one device are read here, in groups. The other objects get
their values through the method that TensorFlow itself would call: a checkpoint object
over a part of the state would warn of every value that it leaves alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import tensorflow as tf

from resumable_tf.state.leaf import host_device, is_variable, tensorflow_variable
from resumable_tf.state.object_graph import Node, ObjectGraph, Value, key_of

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
    for node in graph.nodes:
        if node.leaves and not is_variable(node.obj):
            _restore_other(node, path, inventory)


def _assign(group: list[Value], path: str, inventory: Inventory) -> None:
    tensors = _read([value.key for value in group], path, inventory)
    for value in group:
        # With its tensor let go of, the variable may take over the memory.
        variable = tensorflow_variable(value.node.obj)
        variable.assign(tensors.pop(0), read_value=False)


def _restore_other(node: Node, path: str, inventory: Inventory) -> None:
    """Restores an object that is no variable."""
    keys = [key_of(node, leaf) for leaf in node.leaves]
    tensors = _read(keys, path, inventory)
    if isinstance(node.obj, tf.train.experimental.PythonState):
        node.obj.deserialize(tensors[0].numpy())
        return
    names = [leaf.name for leaf in node.leaves]
    node.obj._restore_from_tensors(dict(zip(names, tensors, strict=True)))


def _read(keys: list[str], path: str, inventory: Inventory) -> list[tf.Tensor]:
    with tf.device(host_device()):
        return list(
            tf.raw_ops.RestoreV2(
                prefix=path,
                tensor_names=keys,
                shape_and_slices=[""] * len(keys),
                dtypes=[inventory[key][1] for key in keys],
            )
        )


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
