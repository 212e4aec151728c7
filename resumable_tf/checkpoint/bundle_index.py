"""What TensorFlow's index file knows of the data files beside it.

    for span in read_spans("ckpt-7.index"):
        span.shard, span.offset, span.size, span.crc32c

The index is a sorted table (LevelDB's format: blocks of entries whose keys share
prefixes, a block of blocks, a footer) from a tensor's name to where its bytes are. The
checksum of a tensor was taken while it was written, so a data file need not be read
again to have its own.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2

from resumable_tf.checkpoint.crc32c import unmask

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
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
    if len(table) < _FOOTER_BYTES or _number(table[-8:]) != _MAGIC:
        raise ValueError(f"{path} is no index of a TensorFlow checkpoint")
    spans = []
    for key, value in _entries(table):
        if not key:
            continue  # The header.
        entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
        is_known = entry.dtype not in _OTHERWISE_HASHED
        if entry.size:
            checksum = unmask(entry.crc32c) if is_known else None
            spans.append(Span(entry.shard_id, entry.offset, entry.size, checksum))
    return sorted(spans, key=lambda span: (span.shard, span.offset))


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    footer = table[-_FOOTER_BYTES:]
    _, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    for _, value in _block(table, index):
        handle, _ = _handle(value, 0)
        yield from _block(table, handle)


def _block(table: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a block.

    Raises:
        ValueError: If it is compressed, which TensorFlow's bundles never are.
    """
    offset, size = handle
    if table[offset + size] != 0:
        raise ValueError("a block of the index is compressed")
    block = table[offset : offset + size]
    num_restarts = struct.unpack("<I", block[-4:])[0]
    end, at, key = size - 4 - 4 * num_restarts, 0, b""
    while at < end:
        num_shared, at = _varint(block, at)
        num_own, at = _varint(block, at)
        num_value, at = _varint(block, at)
        key = key[:num_shared] + block[at : at + num_own]
        at += num_own
        yield key, block[at : at + num_value]
        at += num_value


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
