"""Metrics as JSON lines that never run ahead of the checkpoint.

    log = MetricsLog("run/metrics/train.jsonl", events=EventLog("run/metrics/train"))
    log.open(step=41000)                    # drops lines beyond step 41000
    log.append({"step": 41010, "loss": 2.31})
    log.flush()                             # durable; call it before a commit

A line is `{"step": ..., ...}`. Whatever a killed process had written after its last
checkpoint is cut off, so that a curve has no doubled and no missing line.
"""

from __future__ import annotations

import json
import os
from typing import Any

import fsspec

from resumable_tf.training.event_log import EventLog, append_or_undo


class MetricsLog:
    """One file of JSON lines, local or on an object store.

    A local file is appended to and synchronised to disk. Object stores can't append,
    so there the file, which is small, is written whole at each flush.
    """

    def __init__(self, path: str, *, events: EventLog | None = None) -> None:
        """Keeps the path; nothing is opened before `open`.

        Args:
            path: The file of JSON lines.
            events: Gets every line too, for TensorBoard.
        """
        self._path = path
        self._events = events
        self._is_local = "://" not in path
        self._kept: list[str] = []
        self._pending: list[str] = []

    def open(self, *, step: int) -> None:
        """Reads what is there and drops every line beyond `step`, and torn ones."""
        found = self._read()
        self._kept = [line for line in found if _step_of(line) <= step]
        self._pending = []
        if found or self._is_local:
            self._rewrite(self._kept)
        if self._events is not None:
            self._events.open(step=step)

    def append(self, record: dict[str, Any]) -> None:
        """Adds a line; `record` must have an integer `step`."""
        self._pending.append(json.dumps(record))
        if self._events is not None:
            self._events.append(record)

    def flush(self) -> None:
        """Writes the new lines and waits until they are durable.

        If that fails, they are written by the next call that does not.
        """
        if not self._pending:
            return
        if self._events is not None:
            self._events.flush()
        if self._is_local:
            text = "".join(line + "\n" for line in self._pending)
            append_or_undo(self._path, text.encode("utf-8"))
        else:
            self._rewrite(self._kept + self._pending)
            self._kept += self._pending
        self._pending = []

    def _read(self) -> list[str]:
        try:
            with fsspec.open(self._path, "rt", encoding="utf-8") as file:
                return list(file.read().splitlines())
        except FileNotFoundError:
            return []

    def _rewrite(self, lines: list[str]) -> None:
        text = "".join(line + "\n" for line in lines)
        if not self._is_local:
            with fsspec.open(self._path, "wt", encoding="utf-8") as file:
                file.write(text)
            return
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        temporary = f"{self._path}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        self._kept = []


def _step_of(line: str) -> float:
    """Returns the step of a line; infinity for a torn one, so that it is dropped."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
