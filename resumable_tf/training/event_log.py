"""Metrics as TensorBoard events that never run ahead of the checkpoint.

    events = EventLog("run/metrics/train")
    events.open(step=41000)                 # drops events beyond step 41000
    events.append({"step": 41010, "loss": 2.31})
    events.flush()

Each start writes a file of its own, whose name holds the step it began at. Files begun
after the resumed step go; of the others only the newest can hold events beyond it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

_PREFIX = "events.out.tfevents."
_SUFFIX = ".resumable"


class EventLog:
    """The event files of one directory, local or on an object store."""

    def __init__(
        self, directory: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Keeps the directory; nothing is read or written before `open`.

        Args:
            directory: Where TensorBoard finds the files.
            clock: Seconds since 1970, the wall time of the events.
        """
        self._directory = directory.rstrip("/")
        self._clock = clock
        self._writer: Any = None

    def open(self, *, step: int) -> None:
        """Drops every event beyond `step` and begins a file for those to come."""
        tf.io.gfile.makedirs(self._directory)
        kept = []
        for path, first_step in self._files():
            if first_step >= step:
                tf.io.gfile.remove(path)
            else:
                kept.append(path)
        if kept:
            self._cut(kept[-1], step)
        self._writer = self._begin(self._path(step))

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds an event; `record` must have an integer `step`."""
        values = [
            tf.compat.v1.Summary.Value(tag=tag, simple_value=float(value))
            for tag, value in record.items()
            if tag != "step"
        ]
        event = tf.compat.v1.Event(
            wall_time=self._clock(),
            step=record["step"],
            summary=tf.compat.v1.Summary(value=values),
        )
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Hands the new events to the file system."""
        self._writer.flush()

    def _path(self, first_step: int) -> str:
        return f"{self._directory}/{_PREFIX}{first_step:012d}{_SUFFIX}"

    def _files(self) -> list[tuple[str, int]]:
        """Returns our files and the steps they began at, oldest first."""
        names = sorted(tf.io.gfile.listdir(self._directory))
        return [
            (f"{self._directory}/{name}", int(name[len(_PREFIX) : -len(_SUFFIX)]))
            for name in names
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX)
        ]

    def _begin(self, path: str) -> Any:
        writer = tf.io.TFRecordWriter(path)
        version = tf.compat.v1.Event(
            wall_time=self._clock(), file_version="brain.Event:2"
        )
        writer.write(version.SerializeToString())
        return writer

    def _cut(self, path: str, step: int) -> None:
        """Writes a file again without what lies beyond `step`, if anything does."""
        events = list(_complete_records(path))
        kept = [e for e in events if tf.compat.v1.Event.FromString(e).step <= step]
        temporary = f"{path}.tmp"
        with tf.io.TFRecordWriter(temporary) as writer:
            for event in kept:
                writer.write(event)
        tf.io.gfile.rename(temporary, path, overwrite=True)


def _complete_records(path: str) -> Iterator[bytes]:
    """Yields the records of a file up to the first torn one."""
    records = iter(tf.data.TFRecordDataset(path))
    while True:
        try:
            yield next(records).numpy()
        except (StopIteration, tf.errors.DataLossError):
            return
