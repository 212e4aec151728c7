"""The data files of a bundle: how large they get, and their checksums.

    options.experimental_sharding_callback = ShardBySize(2**30)
    records = describe("/run/checkpoints/ckpt-7")

TensorFlow hashes each tensor while it writes it. A data file is these tensors one after
the other, so its checksum is put together from theirs; only strings are read again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import google_crc32c
import tensorflow as tf

from resumable_tf.checkpoint.bundle_index import Span, read_spans
from resumable_tf.checkpoint.crc32c import combine
from resumable_tf.checkpoint.manifest import FileRecord, hex_crc32c
from resumable_tf.storage.protocol import CHUNK_BYTES

SHARD_BYTES = 2**30
"""A data file is no longer, unless a single tensor is."""

_DATA = re.compile(r"\.data-(\d+)-of-\d+$")


def shard_numbers(tensors: Iterable[Any], max_bytes: int) -> list[int]:
    """Returns the number of the data file of each tensor.

    Args:
        tensors: In the order in which they are written.
        max_bytes: Of a data file.
    """
    numbers: list[int] = []
    number = size = 0
    for tensor in tensors:
        length = tensor.dtype.size * (tensor.shape.num_elements() or 0)
        if numbers and size + length > max_bytes:
            number, size = number + 1, 0
        size += length
        numbers.append(number)
    return numbers


class ShardBySize(tf.train.experimental.ShardingCallback):  # type: ignore[misc]
    """Begins a new data file before one gets too long; tensors stay whole.

    So a large state can be stored and fetched by several connections, and a lost one
    costs little.

    Attributes:
        keys: Of the tensors so far, in the order in which they are written.
    """

    def __init__(self, max_bytes: int) -> None:
        """Keeps the length.

        Args:
            max_bytes: Of a data file.
        """
        self._max_bytes = max_bytes
        self.keys: list[str] = []

    @property
    def description(self) -> str:
        """What TensorFlow calls this way in its messages."""
        return f"data files of at most {self._max_bytes} bytes"

    def __call__(self, shardable_tensors: Sequence[Any]) -> list[dict[str, Any]]:
        """Returns the tensors of each data file, in their given order."""
        self.keys += [item.checkpoint_key for item in shardable_tensors]
        tensors = [item.tensor for item in shardable_tensors]
        numbers = shard_numbers(tensors, self._max_bytes)
        shards: list[dict[str, Any]] = [{} for _ in range(max(numbers, default=0) + 1)]
        for number, item in zip(numbers, shardable_tensors, strict=True):
            slices = shards[number].setdefault(item.checkpoint_key, {})
            slices[item.slice_spec] = item.tensor
        return shards


def describe(prefix: str) -> list[tuple[str, FileRecord]]:
    """Returns path, length and checksum of every file of a bundle just written.

    Args:
        prefix: The bundle's, on a local disk.

    Raises:
        ValueError: If its index can't be read.
    """
    directory, name = os.path.split(prefix)
    spans = read_spans(f"{prefix}.index")
    found = []
    for file_name in sorted(os.listdir(directory)):
        if not file_name.startswith((f"{name}.index", f"{name}.data-")):
            continue
        path = os.path.join(directory, file_name)
        shard = _DATA.search(file_name)
        own = [s for s in spans if shard is not None and s.shard == int(shard[1])]
        size, checksum = _measure(path, own)
        record = FileRecord(name=file_name, size=size, crc32c=hex_crc32c(checksum))
        found.append((path, record))
    return found


def _measure(path: str, spans: list[Span]) -> tuple[int, int]:
    """Returns length and checksum; reads only what no span covers."""
    size, checksum, at = os.path.getsize(path), 0, 0
    with open(path, "rb") as file:
        for span in [*spans, Span(0, size, 0, 0)]:
            if span.offset > at:
                checksum = _extend(checksum, file, at, span.offset)
            elif span.offset < at:
                raise ValueError(f"the tensors in {path} overlap at byte {at}")
            at = span.offset + span.size
            if span.crc32c is None:
                checksum = _extend(checksum, file, span.offset, at)
            else:
                checksum = combine(checksum, span.crc32c, span.size)
    return size, checksum


def _extend(checksum: int, file: Any, begin: int, end: int) -> int:
    file.seek(begin)
    while begin < end:
        chunk = file.read(min(CHUNK_BYTES, end - begin))
        if not chunk:
            raise ValueError(f"{file.name} ends at byte {begin}, not {end}")
        checksum = google_crc32c.extend(checksum, chunk)
        begin += len(chunk)
    return checksum
