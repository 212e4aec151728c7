"""A large file to Google Cloud Storage in parts, side by side, picked up after a kill.

    upload_in_parts(files, "/tmp/data", "bucket/run/checkpoints/data", slots=slots)
    delete_parts(files, parts_folder("bucket/run/checkpoints/data"))

The parts are objects of their own below `.parts/`, named by their place, length and
crc32c; then the server joins them ("parallel composite upload",
cloud.google.com/storage/docs/parallel-composite-uploads). A part that is there already
is not sent again, whichever process has sent it: to try again is to go on. At most a
few parts are in memory.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import google_crc32c

from resumable_tf.storage import gcs
from resumable_tf.storage.retry import UploadChangedError
from resumable_tf.storage.transfer import in_parallel

PARTS = ".parts"
"""Folder, beside the object, of the parts of uploads under way."""
NUM_PARALLEL_PARTS = 4
_PART_BYTES = 16 * 2**20
MIN_BYTES = _PART_BYTES
"""Smaller files go as a whole, in one request."""
_MAX_SOURCES = 32
"""The server joins no more objects at once."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """One piece of the file."""

    number: int
    start: int
    size: int


def parts_folder(path: str) -> str:
    """Returns the folder of an object's parts."""
    directory, _, name = path.rpartition("/")
    return f"{directory}/{PARTS}/{name}"


def is_part(name: str) -> bool:
    """Returns whether an object is a part of an upload that is not complete."""
    return f"/{PARTS}/" in f"/{name}"


def upload_in_parts(
    files: Any, source: str, path: str, *, slots: threading.Semaphore
) -> dict[str, Any]:
    """Copies a local file to an object that is not there yet.

    Args:
        files: A `gcsfs.GCSFileSystem`.
        source: Path of the local file.
        path: Of the object.
        slots: Held by each part in memory, so that uploads at the same time share
            one bound.

    Returns:
        The object's resource.

    Raises `FileExistsError` if it is there (412), or what a request has raised.
    """
    folder = parts_folder(path)
    found = files.find(folder, detail=True)
    with open(source, "rb") as file:
        send = functools.partial(
            _send, files, folder, file.fileno(), found=found, slots=slots
        )
        names = in_parallel(
            send,
            _split(os.fstat(file.fileno()).st_size),
            num_threads=NUM_PARALLEL_PARTS,
        )
    level = 0
    while len(names) > _MAX_SOURCES:
        starts = range(0, len(names), _MAX_SOURCES)
        joined = [f"{folder}/joined-{level}-{start:05d}" for start in starts]
        for start, name in zip(starts, joined, strict=True):
            gcs.compose(files, name, names[start : start + _MAX_SOURCES])
        names, level = joined, level + 1
    return gcs.compose(files, path, names, ifGenerationMatch=gcs.ABSENT)


def delete_parts(files: Any, path: str) -> None:
    """Deletes the parts in a folder, or in all folders below it.

    Raises what a request has raised.
    """
    for name in files.find(path):
        with contextlib.suppress(FileNotFoundError):
            files.rm_file(name)


def _split(size: int) -> Iterator[_Part]:
    for number, start in enumerate(range(0, size, _PART_BYTES)):
        yield _Part(number, start, min(_PART_BYTES, size - start))


def _send(
    files: Any,
    folder: str,
    descriptor: int,
    part: _Part,
    *,
    found: Mapping[str, Any],
    slots: threading.Semaphore,
) -> str:
    """Makes sure that a part is there; returns its name.

    Raises:
        UploadChangedError: If something else has arrived.
    """
    with slots:
        data = os.pread(descriptor, part.size, part.start)
        checksum = google_crc32c.Checksum(data)
        name = f"{folder}/{part.number:05d}-{part.size}-{checksum.hexdigest().decode()}"
        expected = base64.b64encode(checksum.digest()).decode("ascii")
        there = found.get(name)
        if there and (int(there["size"]), there["crc32c"]) == (part.size, expected):
            return name
        arrived = gcs.put(files, name, data)["crc32c"]
        if arrived != expected:
            raise UploadChangedError(f"{name} was changed by its upload: {arrived}")
    return name
