"""Metrics as TensorBoard events that never run ahead of the checkpoint.

    events = EventLog("run/metrics/train")
    events.open(step=41000)                 # drops events beyond step 41000
    events.append({"step": 41010, "loss": 2.31})
    events.flush()

Each start writes a file of its own, whose name holds the step it began at. Files begun
after the resumed step go; of the others only the newest can hold events beyond it. The
files are records of TensorFlow (length, data and their checksums), written through
fsspec: TensorFlow itself knows fewer file systems.
"""

from __future__ import annotations

import functools
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fsspec
import google_crc32c
import tensorflow as tf

from resumable_tf.storage.append import append_or_undo, make_directory, replace_file

_PREFIX = "events.out.tfevents."
_SUFFIX = ".resumable"
_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")


class EventLog:
    """The event files of one directory, local or on an object store.

    A local file is appended to; on object stores, which can't append, the file of this
    start is written whole at each flush.
    """

    def __init__(
        self, directory: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Keeps the directory; nothing is read or written before `open`.

        Args:
            directory: Where TensorBoard finds the files.
            clock: Seconds since 1970, the wall time of the events.
        """
        self._directory = directory
        self._is_local = "://" not in directory
        self._clock = clock
        self._written = b""  # On an object store.
        self._pending = b""

    def open(self, *, step: int) -> None:
        """Drops every event beyond `step` and begins a file for those to come."""
        self._files, root = fsspec.core.url_to_fs(
            self._directory, use_listings_cache=False
        )
        self._root = root.rstrip("/")
        if self._is_local:
            make_directory(self._root)
        else:
            self._files.makedirs(self._root, exist_ok=True)
        kept = []
        for path, first_step in self._own_files():
            if first_step >= step:
                self._files.rm_file(path)
            else:
                kept.append(path)
        if kept:
            self._cut(kept[-1], step)
        self._path = f"{self._root}/{_PREFIX}{step:012d}{_SUFFIX}"
        self._add(tf.compat.v1.Event(file_version="brain.Event:2"))
        self.flush()

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds an event; `record` must have an integer `step`."""
        values = [
            tf.compat.v1.Summary.Value(tag=tag, simple_value=float(value))
            for tag, value in record.items()
            if tag != "step"
        ]
        summary = tf.compat.v1.Summary(value=values)
        self._add(tf.compat.v1.Event(step=record["step"], summary=summary))

    def take(self) -> Callable[[], None]:
        """Returns what stores all events up to now, also on another thread.

        For object stores; what it does is done again in full by the next.
        """
        self._written, self._pending = self._written + self._pending, b""
        return functools.partial(self._files.pipe_file, self._path, self._written)

    def flush(self) -> None:
        """Hands the new events to the file system.

        If that fails, they are written by the next call that does not.
        """
        if not self._is_local:
            self.take()()
            return
        append_or_undo(self._path, self._pending, is_durable=False)
        self._pending = b""

    def _add(self, event: Any) -> None:
        event.wall_time = self._clock()
        self._pending += _to_record(event.SerializeToString())

    def _own_files(self) -> list[tuple[str, int]]:
        """Returns our files and the steps they began at, oldest first."""
        found = []
        try:
            paths = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            # Object stores know no empty directories.
            return []
        for path in sorted(paths):
            name = path.rsplit("/", 1)[-1]
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                found.append((path, int(name[len(_PREFIX) : -len(_SUFFIX)])))
        return found

    def _cut(self, path: str, step: int) -> None:
        """Leaves out what lies beyond `step`, and a torn end."""
        data = self._files.cat_file(path)
        kept = [
            _to_record(event)
            for event in _complete_records(data)
            if tf.compat.v1.Event.FromString(event).step <= step
        ]
        if (rest := b"".join(kept)) != data:
            if self._is_local:
                replace_file(path, rest)
                return
            temporary = f"{path}.tmp"
            self._files.pipe_file(temporary, rest)
            self._files.mv(temporary, path)


def _to_record(data: bytes) -> bytes:
    length = _LENGTH.pack(len(data))
    return length + _masked_crc32c(length) + data + _masked_crc32c(data)


def _masked_crc32c(data: bytes) -> bytes:
    """Returns a checksum as TensorFlow's record files have it (record_writer.h)."""
    value = google_crc32c.value(data)
    rotated = (value >> 15 | value << 17) + 0xA282EAD8
    return _CHECKSUM.pack(rotated & 0xFFFFFFFF)


def _complete_records(data: bytes) -> Iterator[bytes]:
    """Yields the records of a file up to the first torn one."""
    begin, header, footer = 0, _LENGTH.size + _CHECKSUM.size, _CHECKSUM.size
    while begin + header <= len(data):
        (length,) = _LENGTH.unpack_from(data, begin)
        end = begin + header + length + footer
        record = data[begin + header : end - footer]
        if data[begin:end] != _to_record(record):
            return
        yield record
        begin = end
