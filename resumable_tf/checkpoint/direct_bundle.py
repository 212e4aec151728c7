"""TensorFlow's bundle of a snapshot, written without TensorFlow.

    if can_write(snapshot.dtypes()):
        write_direct(prefix, values, max_bytes=2**30, bypasses_cache=True)

TensorFlow's own writer holds every value until all are written, and leaves a copy of
them in the page cache. Here a value is let go as soon as its bytes are on their way, so
that the training need not copy it to update it. The format is TensorFlow's: data files
of the tensors' bytes one after the other, and an index. Source: tensor_bundle.h.
"""

from __future__ import annotations

import itertools
import operator
import struct
from collections.abc import Collection
from typing import Any

import google_crc32c
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2

from resumable_tf.checkpoint.bundle_index import format_index
from resumable_tf.checkpoint.crc32c import mask
from resumable_tf.checkpoint.data_files import shard_numbers
from resumable_tf.checkpoint.sorted_table import varint
from resumable_tf.storage.direct_file import DirectFile
from resumable_tf.storage.directories import named

_DTYPES = {
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bool", "string"),
}
_first = operator.itemgetter(0)


def can_write(dtypes: Collection[str]) -> bool:
    """Returns whether values of these dtypes can be written here.

    TensorFlow keeps others (numbers of 4 or 8 bits with their own rules) in ways of
    its own.
    """
    return set(dtypes) <= _DTYPES


def write_direct(
    prefix: str, values: dict[str, Any], *, max_bytes: int, bypasses_cache: bool
) -> None:
    """Writes a bundle.

    Args:
        prefix: Of its files, on a local disk.
        values: The tensors, by key, in the order in which they are to be written;
            emptied one by one.
        max_bytes: Of a data file, unless a single tensor is longer.
        bypasses_cache: Whether the data files are kept out of the page cache.

    Raises:
        FileExistsError: If one of the files is there; nothing is written over.
        OSError: If the disk is full or fails.
    """
    numbers = shard_numbers(values.values(), max_bytes)
    by_shard = itertools.groupby(zip(numbers, list(values), strict=True), _first)
    num_shards, stored = numbers[-1] + 1, {}
    try:
        for number, keys in by_shard:
            path = f"{prefix}.data-{number:05d}-of-{num_shards:05d}"
            with DirectFile(path, bypasses_cache=bypasses_cache) as file:
                for _, key in keys:
                    stored[key] = _append(file, values.pop(key), shard=number)
    finally:
        values.clear()  # Else a kept error would keep them.
    path = f"{prefix}.index"
    with named(path), open(path, "xb") as index:
        index.write(format_index(stored, num_shards=num_shards))


def _append(file: DirectFile, tensor: Any, *, shard: int) -> Any:
    """Appends a tensor and returns its entry in the index."""
    offset = file.size
    if tensor.dtype == tf.string:
        strings = np.asarray(tensor.numpy(), dtype=object)
        checksum = _append_strings(file, strings.reshape(-1).tolist())
    elif tensor.shape.num_elements() == 0:
        checksum = 0
    elif tensor.dtype == tf.bfloat16:  # Which Python's buffers don't know.
        checksum = file.append(memoryview(tf.bitcast(tensor, tf.uint16)))
    else:
        checksum = file.append(memoryview(tensor))
    return tensor_bundle_pb2.BundleEntryProto(
        dtype=tensor.dtype.as_datatype_enum,
        shape=tensor.shape.as_proto(),
        shard_id=shard,
        offset=offset,
        size=file.size - offset,
        crc32c=mask(checksum),
    )


def _append_strings(file: DirectFile, strings: list[bytes]) -> int:
    """Appends their lengths, a checksum of these, and their bytes."""
    lengths = [len(string) for string in strings]
    packed = b"".join(struct.pack("<I" if n < 2**32 else "<Q", n) for n in lengths)
    of_lengths = struct.pack("<I", mask(google_crc32c.value(packed)))
    file.append(b"".join(varint(length) for length in lengths) + of_lengths)
    checksum = google_crc32c.value(packed + of_lengths)
    for string in strings:
        if string:
            file.append(string)
        checksum = google_crc32c.extend(checksum, string)
    return int(checksum)
