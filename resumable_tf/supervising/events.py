"""What a supervisor does, one line of JSON an event.

    events = Events(write=lambda line: print(line, file=sys.stderr))
    events.emit("started", pid=17, start=1)
    # {"event": "started", "pid": 17, "start": 1, "time": 1767225600.0}

docs/supervisor.md lists the events and their fields.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
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
