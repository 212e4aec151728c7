"""Metrics as JSON lines that never run ahead of the checkpoint.

    log = MetricsLog("run/metrics/train.jsonl", events=EventLog("run/metrics/train"))
    log.open(step=41000)                    # drops lines beyond step 41000
    log.append({"step": 41010, "loss": 2.31})
    log.flush()                             # durable; call it before a commit
    state.extra["metrics"] = log.written()  # for `open` after a resume

A line is `{"step": ..., ...}`. Whatever a killed process had written after its last
checkpoint is cut off, so that a curve has no doubled and no missing line.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import fsspec
import google_crc32c

from resumable_tf.storage.append import append_or_undo, replace_file
from resumable_tf.training.event_log import EventLog

_log = logging.getLogger(__name__)


class MetricsLog:
    """One file of JSON lines, local or on an object store.

    A local file is appended to and synchronised to disk. Object stores can't append,
    so there the file, which is small, is written whole at each flush.

    Attributes:
        is_local: Whether the file can be appended to, and a flush is cheap.
    """

    def __init__(self, path: str, *, events: EventLog | None = None) -> None:
        """Keeps the path; nothing is opened before `open`.

        Args:
            path: The file of JSON lines.
            events: Gets every line too, for TensorBoard.
        """
        self._path = path
        self._events = events
        self.is_local = "://" not in path
        self._kept: list[bytes] = []
        self._pending: list[bytes] = []
        self._num_lines, self._checksum = 0, 0
        self._is_open = False
        # On an object store; set by the thread that stores, one at a time.
        self._num_stored = 0

    @property
    def name(self) -> str:
        """The file's name, without its directory."""
        return self._path.rsplit("/", 1)[-1]

    def written(self) -> list[int]:
        """Returns the number of lines that were flushed, and their crc32c."""
        return [self._num_lines, self._checksum]

    def open(self, *, step: int, written: Sequence[int] | None = None) -> None:
        """Reads what is there and drops every line beyond `step`, and torn ones.

        A file that lacks a line, or has a changed one, is kept beside the new one,
        and that is said: no checkpoint has the line.

        Args:
            step: Completed steps.
            written: What `written()` has returned at that step; None if unknown.
        """
        data = self._read()
        found = data.splitlines()
        self._kept = [line for line in found if _step_of(line) <= step]
        self._pending = []
        self._num_lines, self._checksum = 0, 0
        self._count(self._kept)
        self._is_open, self._num_stored = True, len(self._kept)
        if written is not None and list(written) != self.written():
            self._tell_damage(data, step=step, num_lines=written[0])
        if found or self.is_local:
            self._rewrite(self._kept)
        if self._events is not None:
            self._events.open(step=step)

    def append(self, record: dict[str, Any]) -> None:
        """Adds a line; `record` must have an integer `step`.

        Before `open`, in a worker that leaves the file to another, it is dropped.
        """
        if not self._is_open:
            return
        self._pending.append(json.dumps(record).encode("ascii"))
        if self._events is not None:
            self._events.append(record)

    def take(self) -> Callable[[], None]:
        """Returns what stores all lines up to now, also on another thread.

        For object stores: training need not wait for them. If it fails, all is stored
        by the next.
        """
        self._count(self._pending)
        self._kept, self._pending = self._kept + self._pending, []
        lines, num_stored = self._kept, len(self._kept)
        store_events = self._events.take() if self._events is not None else None

        def store() -> None:
            if num_stored > self._num_stored:
                if store_events is not None:
                    store_events()
                self._rewrite(lines)
                self._num_stored = num_stored

        return store

    def flush(self) -> None:
        """Writes the new lines and waits until they are durable.

        If that fails, they are written by the next call that does not.
        """
        if not self.is_local:
            self.take()()
            return
        if not self._pending:
            return
        if self._events is not None:
            self._events.flush()
        append_or_undo(self._path, _joined(self._pending))
        self._count(self._pending)
        self._pending = []

    def _tell_damage(self, data: bytes, *, step: int, num_lines: int) -> None:
        """Keeps the file as it was found, the first time, and says what it lacks."""
        aside = f"{self._path}.damaged-{step}"
        if self.is_local:
            if os.path.islink(aside) or not os.path.exists(aside):
                replace_file(aside, data)
        else:
            files, path = fsspec.core.url_to_fs(aside, use_listings_cache=False)
            if not files.exists(path):
                files.pipe_file(path, data)
        _log.warning(
            "%s is damaged: it has %d sound lines up to step %d, and had %d when that "
            "step was saved. The file as it was found is %s",
            *(self._path, self._num_lines, step, num_lines, aside),
        )

    def _count(self, lines: list[bytes]) -> None:
        self._num_lines += len(lines)
        self._checksum = google_crc32c.extend(self._checksum, _joined(lines))

    def _read(self) -> bytes:
        try:
            with fsspec.open(self._path, "rb") as file:
                return bytes(file.read())
        except FileNotFoundError:
            return b""

    def _rewrite(self, lines: list[bytes]) -> None:
        data = _joined(lines)
        if not self.is_local:
            with fsspec.open(self._path, "wb") as file:
                file.write(data)
            return
        replace_file(self._path, data)
        self._kept = []


def _joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _step_of(line: bytes) -> float:
    """Returns the step of a line; infinity for a torn one, so that it is dropped."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
