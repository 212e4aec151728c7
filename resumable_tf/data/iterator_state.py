"""The position of a `tf.data` iterator, as TensorFlow's own iterator state.

    state = read_iterator(iterator)         # bytes; a few KB, or a shuffle buffer
    write_iterator(iterator, state)         # in place, into one of an equal dataset
    entries(state)                          # its parts, one for each operation

It holds what is in the buffers, so two equal positions may differ in how far a
`prefetch` has run ahead. What it lacks are the seeds of shuffles that it does not read
at the moment; see `seed_counts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from resumable_tf.errors import StateError

_FAIL, _IGNORE = 2, 1
_VARIANT = 21


def read_iterator(iterator: Any, *, ignores_stateful: bool = False) -> bytes:
    """Returns the state of an iterator as it is now.

    Args:
        iterator: What `iter(dataset)` gave.
        ignores_stateful: Whether to leave the state of random operations inside the
            pipeline out, where they are known not to be called again.

    Raises:
        StateError: If the pipeline has operations without a state that can be saved
            (Python code, unseeded random operations).
    """
    policy = _IGNORE if ignores_stateful else _FAIL
    try:
        variants = tf.raw_ops.SerializeIterator(
            resource_handle=iterator._iterator_resource, external_state_policy=policy
        )
    except (tf.errors.FailedPreconditionError, tf.errors.UnimplementedError) as error:
        raise StateError(
            "the position of this tf.data pipeline can't be saved, since a part of "
            "it keeps its state out of TensorFlow's reach. TensorFlow says: "
            f"{error.message.splitlines()[0]}"
        ) from error
    # The whole vector at once: an operation for each element takes 80 times as long.
    return bytes(tf.io.serialize_tensor(variants).numpy())


def write_iterator(iterator: Any, state: bytes) -> None:
    """Moves an iterator to a position.

    Args:
        iterator: One of an equal dataset.
        state: What `read_iterator` returned, perhaps in another process.
    """
    tf.raw_ops.DeserializeIterator(
        resource_handle=iterator._iterator_resource,
        serialized=tf.io.parse_tensor(state, tf.variant),
    )


def entries(state: bytes) -> Iterator[Any]:
    """Yields the parts of a state, as `VariantTensorDataProto`.

    Args:
        state: What `read_iterator` returned.
    """
    vector = tensor_pb2.TensorProto.FromString(state)
    content, at = vector.tensor_content, 0
    sizes = []
    for _ in range(vector.tensor_shape.dim[0].size):
        size, at = _varint(content, at)
        sizes.append(size)
    for size in sizes:
        yield _Variant.FromString(content[at : at + size])
        at += size


def state_of(parts: list[Any]) -> bytes:
    """Returns the state that consists of these parts.

    Args:
        parts: What `entries` yielded.
    """
    vector = tensor_pb2.TensorProto(dtype=_VARIANT)
    vector.tensor_shape.dim.add().size = len(parts)
    for part in parts:
        vector.variant_val.add().CopyFrom(part)
    return bytes(vector.SerializeToString())


_Variant = tensor_pb2.VariantTensorDataProto


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
