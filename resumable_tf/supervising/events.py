"""What a supervisor does, one line of JSON an event.

    events = Events(write=lambda line: print(line, file=sys.stderr))
    events.emit("started", pid=17, start=1)
    # {"event": "started", "pid": 17, "start": 1, "time": 1767225600.0}

docs/supervisor.md lists the events and their fields.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

FIELDS: dict[str, tuple[str, ...]] = {
    "started": ("start", "pid", "command"),
    "heartbeat": ("start", "step", "secs"),
    "no_heartbeat": ("start",),
    "hung": ("start", "step", "silence_secs", "limit_secs"),
    "signal": ("signal", "pid"),
    "killed": ("start", "reason"),
    "ended": ("start", "exit_code", "how", "last_step", "ran_secs"),
    "restart": ("after_secs", "reason", "num_fruitless", "best_step"),
    "tpu": ("status", "state", "health", "detail"),
    "events_lost": ("file", "reason"),
    "stopped": ("exit_code", "reason", "num_starts", "best_step"),
}
"""Names of the events, and the fields of each beside `event` and `time`."""


class Events:
    """Writes the events."""

    def __init__(
        self,
        write: Callable[[str], Any],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keeps where to write.

        Args:
            write: Takes a line without its end.
            clock: Seconds since 1970.
        """
        self._write = write
        self._clock = clock

    def emit(self, event: str, **fields: Any) -> None:
        """Writes one event.

        Args:
            event: One of `FIELDS`.
            **fields: Its fields, all of them.

        Raises:
            ValueError: If it has other fields than it should.
        """
        if set(fields) != set(FIELDS[event]):
            raise ValueError(f"{event} has {sorted(fields)}, not {FIELDS[event]}")
        time_secs = round(self._clock(), 3)
        record = {"time": time_secs, "event": event, **fields}
        self._write(json.dumps(record))


class EventFiles:
    """Writes the lines of `Events` to files; to none of them once it has failed.

    A full disk or a closed pipe is no reason to end a training. A signal handler
    writes too, which buffered files do not bear.
    """

    def __init__(self, files: Mapping[int, str]) -> None:
        """Keeps where to write.

        Args:
            files: Names of the open files, by descriptor.
        """
        self._files = dict(files)

    def __call__(self, line: str) -> None:
        """Writes a line to each file; tells the others of one that can't be written."""
        data = f"{line}\n".encode()
        lost = []
        for file, name in list(self._files.items()):
            try:
                _write_all(file, data)
            except OSError as error:
                # A signal handler may have given it up meanwhile.
                if self._files.pop(file, None) is not None:
                    lost.append((name, str(error)))
        for name, reason in lost:
            Events(self).emit("events_lost", file=name, reason=reason)


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
