"""LevelDB's table format, in which TensorFlow keeps the index of a checkpoint.

    data = build_table([(b"a", b"1"), (b"b", b"2")])
    dict(read_table(data))      # {b"a": b"1", b"b": b"2"}

A table is a row of blocks of sorted entries, a block that says where these are, and a
footer. Keys of a block share their beginnings with the key before, but for every 16th.
Source: doc/table_format.md of LevelDB; table_builder.cc of TensorFlow.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence

import google_crc32c

from resumable_tf.checkpoint.crc32c import mask

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_BLOCK_BYTES = 2**18
"""A block that is as long is closed; TensorFlow's choice."""
_UNCOMPRESSED = b"\0"

_Handle = tuple[int, int]  # Offset and size of a block.


def read_table(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields all entries, in the order of their keys.

    Raises:
        ValueError: If it is no table, or a compressed one.
    """
    magic = int.from_bytes(table[-8:], "little")
    if len(table) < _FOOTER_BYTES or magic != _MAGIC:
        raise ValueError("not a table of LevelDB's format")
    footer = table[-_FOOTER_BYTES:]
    _, at = _read_handle(footer, 0)
    index, _ = _read_handle(footer, at)
    for _, value in _read_block(table, index):
        handle, _ = _read_handle(value, 0)
        yield from _read_block(table, handle)


def build_table(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Returns a table, byte for byte as TensorFlow builds it.

    Args:
        entries: Keys and values, in the order of their keys; at least one.

    Raises:
        ValueError: If keys are not in order, or one is there twice.
    """
    keys = [key for key, _ in entries]
    if any(one >= other for one, other in itertools.pairwise(keys)):
        raise ValueError("the keys of a table must be in order, each once")
    table = bytearray()
    blocks: list[tuple[bytes, bytes]] = []
    block = _Block()
    for number, (key, value) in enumerate(entries):
        block.add(key, value)
        is_last = number == len(entries) - 1
        if is_last or block.size >= _BLOCK_BYTES:
            mark = _successor(key) if is_last else _separator(key, keys[number + 1])
            blocks.append((mark, block.append_to(table)))
            block = _Block()
    meta = _Block().append_to(table)
    index = _Block(restart_interval=1)
    for mark, handle in blocks:
        index.add(mark, handle)
    footer = (meta + index.append_to(table)).ljust(_FOOTER_BYTES - 8, b"\0")
    return bytes(table) + footer + struct.pack("<Q", _MAGIC)


def varint(value: int) -> bytes:
    """Returns a number of 0 or more in groups of 7 bits, the lowest first."""
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


class _Block:
    """A block that is being built."""

    def __init__(self, restart_interval: int = 16) -> None:
        self._interval = restart_interval
        self._data = bytearray()
        self._restarts = [0]
        self._count = 0
        self._before = b""

    @property
    def size(self) -> int:
        """Its length in bytes, without its trailer."""
        return len(self._data) + 4 * len(self._restarts) + 4

    def add(self, key: bytes, value: bytes) -> None:
        """Adds an entry whose key comes after all others."""
        num_shared = 0
        if self._count == self._interval:
            self._restarts.append(len(self._data))
            self._count = 0
        elif self._count:
            num_shared = _num_shared(self._before, key)
        own = key[num_shared:]
        self._data += varint(num_shared) + varint(len(own)) + varint(len(value))
        self._data += own + value
        self._before = key
        self._count += 1

    def append_to(self, table: bytearray) -> bytes:
        """Appends it to a table and returns its handle."""
        restarts = self._restarts
        self._data += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
        handle = varint(len(table)) + varint(len(self._data))
        self._data += _UNCOMPRESSED
        checksum = mask(google_crc32c.value(bytes(self._data)))
        table += self._data + struct.pack("<I", checksum)
        return handle


def _successor(key: bytes) -> bytes:
    """Returns a short key that is not before `key`."""
    for at, byte in enumerate(key):
        if byte != 0xFF:
            return key[:at] + bytes([byte + 1])
    return key


def _separator(key: bytes, following: bytes) -> bytes:
    """Returns a short key that is not before `key`, but before the one after it."""
    at = _num_shared(key, following)
    is_inside = at < min(len(key), len(following))
    if is_inside and key[at] < 0xFF and key[at] + 1 < following[at]:
        return key[:at] + bytes([key[at] + 1])
    return key


def _num_shared(one: bytes, other: bytes) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _read_block(table: bytes, handle: _Handle) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a block.

    Raises:
        ValueError: If it is compressed, which TensorFlow's bundles never are.
    """
    offset, size = handle
    if table[offset + size : offset + size + 1] != _UNCOMPRESSED:
        raise ValueError("a block of the index is compressed")
    block = table[offset : offset + size]
    num_restarts = struct.unpack("<I", block[-4:])[0]
    end, at, key = size - 4 - 4 * num_restarts, 0, b""
    while at < end:
        num_shared, at = _read_varint(block, at)
        num_own, at = _read_varint(block, at)
        num_value, at = _read_varint(block, at)
        key = key[:num_shared] + block[at : at + num_own]
        at += num_own
        yield key, block[at : at + num_value]
        at += num_value


def _read_handle(data: bytes, at: int) -> tuple[_Handle, int]:
    offset, at = _read_varint(data, at)
    size, at = _read_varint(data, at)
    return (offset, size), at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
