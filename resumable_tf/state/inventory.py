"""What a training state holds, value by value.

    for entry in state.inventory():
        print(entry.key, entry.shape, entry.dtype, entry.owner)

Keys, shapes and dtypes are TensorFlow's; the owner is for people.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from resumable_tf.state.object_graph import Value


@dataclasses.dataclass(frozen=True)
class Entry:
    """One value of the training state.

    Attributes:
        key: TensorFlow's key of it in the checkpoint.
        shape: Its shape, None if that depends on the value.
        dtype: TensorFlow's name of the dtype.
        size_bytes: Its length in the checkpoint, None if not known beforehand.
        owner: Which of the objects handed to `TrainState` it belongs to, and its name.
    """

    key: str
    shape: tuple[int, ...] | None
    dtype: str
    size_bytes: int | None
    owner: str


def entry_of(value: Value, owner: str) -> Entry:
    """Returns the entry of a value of the object graph.

    Args:
        value: The value.
        owner: What to call its owner.
    """
    shape, dtype = value.leaf.shape, tf.as_dtype(value.leaf.dtype)
    fixed = shape is not None and dtype not in (tf.string, tf.variant)
    size_bytes = math.prod(shape or ()) * dtype.size if fixed else None
    return Entry(
        key=value.key,
        shape=shape,
        dtype=value.leaf.dtype,
        size_bytes=size_bytes,
        owner=owner,
    )
