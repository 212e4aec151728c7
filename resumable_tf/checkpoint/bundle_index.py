"""What TensorFlow's index file says of the data files beside it.

    for span in read_spans("ckpt-7.index"):
        span.shard, span.offset, span.size, span.crc32c

    data = format_index({"w/.ATTRIBUTES/VARIABLE_VALUE": entry}, num_shards=1)

The index is a sorted table from a tensor's name to where its bytes are. The checksum of
a tensor was taken while it was written, so a data file need not be read again to have
its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2

from resumable_tf.checkpoint.crc32c import unmask
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


def format_index(entries: Mapping[str, Any], *, num_shards: int) -> bytes:
    """Returns the contents of an index file.

    Args:
        entries: A `BundleEntryProto` of each tensor, by its key in the checkpoint.
        num_shards: Number of data files.
    """
    header = tensor_bundle_pb2.BundleHeaderProto(
        num_shards=num_shards, endianness=tensor_bundle_pb2.BundleHeaderProto.LITTLE
    )
    header.version.producer = _PRODUCER
    named = {key.encode(): entry for key, entry in entries.items()}
    table = {_HEADER_KEY: header, **named}
    return build_table([(key, table[key].SerializeToString()) for key in sorted(table)])
