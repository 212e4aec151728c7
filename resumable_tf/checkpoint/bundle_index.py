"""What TensorFlow's index file says of the data files beside it.

    for span in read_spans("ckpt-7.index"):
        span.shard, span.offset, span.size, span.crc32c

    data = format_index({"w/.ATTRIBUTES/VARIABLE_VALUE": tensor}, num_shards=1)

The index is a sorted table from a tensor's name to where its bytes are. The checksum of
a tensor was taken while it was written, so a data file need not be read again to have
its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2

from resumable_tf.checkpoint.crc32c import mask, unmask
from resumable_tf.checkpoint.sorted_table import build_table, read_table

_HEADER_KEY = b""
_PRODUCER = 1
"""TensorFlow's number for the format of its bundles."""

# Their checksums are not those of their bytes in the file.
_OTHERWISE_HASHED = {tf.string.as_datatype_enum, tf.variant.as_datatype_enum}


@dataclasses.dataclass(frozen=True, order=True)
class Span:
    """The bytes of one tensor.

    Attributes:
        shard: Number of the data file.
        offset: First byte in it.
        size: Number of bytes.
        crc32c: Of these bytes, None if the index does not know it.
    """

    shard: int
    offset: int
    size: int
    crc32c: int | None


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a data file.

    Attributes:
        dtype: TensorFlow's number of the dtype.
        shape: Its shape.
        shard: Number of the data file.
        offset: First byte in it.
        size: Number of bytes.
        crc32c: TensorFlow's checksum, not masked; for strings not that of the bytes.
    """

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc32c: int


def read_spans(path: str) -> list[Span]:
    """Returns where all tensors are, in the order of their bytes.

    Args:
        path: The index file of a bundle.

    Raises:
        ValueError: If it is no index file of TensorFlow's, or a compressed one.
    """
    with open(path, "rb") as file:
        table = file.read()
    spans = []
    try:
        for key, value in read_table(table):
            if key == _HEADER_KEY:
                continue
            entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
            is_known = entry.dtype not in _OTHERWISE_HASHED
            if entry.size:
                checksum = unmask(entry.crc32c) if is_known else None
                spans.append(Span(entry.shard_id, entry.offset, entry.size, checksum))
    except ValueError as error:
        raise ValueError(
            f"{path} is no index of a TensorFlow checkpoint: {error}"
        ) from error
    return sorted(spans, key=lambda span: (span.shard, span.offset))


def format_index(tensors: Mapping[str, StoredTensor], *, num_shards: int) -> bytes:
    """Returns the contents of an index file.

    Args:
        tensors: Where each is, by its key in the checkpoint.
        num_shards: Number of data files.
    """
    header = tensor_bundle_pb2.BundleHeaderProto(
        num_shards=num_shards, endianness=tensor_bundle_pb2.BundleHeaderProto.LITTLE
    )
    header.version.producer = _PRODUCER
    entries = [(key.encode(), _entry(tensors[key])) for key in tensors]
    return build_table([(_HEADER_KEY, header.SerializeToString()), *sorted(entries)])


def _entry(tensor: StoredTensor) -> bytes:
    entry = tensor_bundle_pb2.BundleEntryProto(
        dtype=tensor.dtype,
        shard_id=tensor.shard,
        offset=tensor.offset,
        size=tensor.size,
        crc32c=mask(tensor.crc32c),
    )
    entry.shape.SetInParent()
    for size in tensor.shape:
        entry.shape.dim.add(size=size)
    return bytes(entry.SerializeToString())
