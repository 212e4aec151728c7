"""Who writes to a run: one process on one host, and whether it is still alive.

    me = Holder.this_process(now=time.time())
    me.is_here()        # True: the same kernel and the same process numbers
    me.is_dead()        # False

A process number alone says little: it is used again after a while, and each container
has its own numbers. So the boot of the kernel, the namespace of the numbers and the
time at which the process started belong to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import socket

from resumable_tf.storage.schema import TIME, Fields, Integer, Text

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_NAMESPACE = "/proc/self/ns/pid"
_STATE_FIELD, _START_FIELD = 0, 19
"""Positions in /proc/PID/stat, counted behind the name in brackets (proc(5))."""
_MAX_PID = 2**31 - 1
"""The most that the system can be asked about."""
HOLDER = Fields(
    {
        "host": Text(max_length=255),
        "pid": Integer(1, _MAX_PID),
        # Only compared, with what this kernel says.
        "boot_id": Text(max_length=64),
        "pid_namespace": Text(max_length=64),
        "started": Text(max_length=64),
        "since": TIME,
    }
)
"""What a file may say of a holder."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process.

    Attributes:
        host: Name of its machine.
        pid: Its number.
        boot_id: Of the kernel that it runs on; empty if unknown.
        pid_namespace: In which its number is valid; empty if unknown.
        started: Its start, in the kernel's ticks since the boot; empty if unknown.
        since: When it began to hold, in seconds since 1970.
    """

    host: str
    pid: int
    boot_id: str
    pid_namespace: str
    started: str
    since: float

    @classmethod
    def this_process(cls, *, now: float) -> Holder:
        """Returns the calling process, which holds since `now`."""
        namespace = ""
        with contextlib.suppress(OSError):
            namespace = os.readlink(_NAMESPACE)
        stat = _read_stat(os.getpid())
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            boot_id=_read(_BOOT_ID).strip(),
            pid_namespace=namespace,
            started=stat[_START_FIELD] if stat else "",
            since=now,
        )

    def is_here(self) -> bool:
        """Returns whether its process number means something to this process."""
        me = Holder.this_process(now=0.0)
        return bool(self.boot_id and self.pid_namespace) and (
            (self.boot_id, self.pid_namespace) == (me.boot_id, me.pid_namespace)
        )

    def is_this_process(self) -> bool:
        """Returns whether it is the calling process itself."""
        me = Holder.this_process(now=self.since)
        return self == me and self.is_here()

    def is_dead(self) -> bool:
        """Returns whether it certainly runs no more; False if that can't be told."""
        if not self.is_here() or not self.started:
            return False
        stat = _read_stat(self.pid)
        if stat is None:
            return not _may_exist(self.pid)
        # "Z" has died and waits for its parent; another start is another process.
        return stat[_STATE_FIELD] in "ZX" or stat[_START_FIELD] != self.started

    def __str__(self) -> str:
        """Returns what a user needs to find the process."""
        since = f"{_moment(self.since):%Y-%m-%d %H:%M:%S} UTC"
        return f"pid {self.pid} on {self.host}, since {since}"


def _moment(secs: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(secs, tz=datetime.timezone.utc)


def _may_exist(pid: int) -> bool:
    """Returns whether a process may be there although /proc does not show it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:  # No process has such a number.
        return False
    except OSError:
        return True  # Another user's, and /proc hides those.
    return True


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _read_stat(pid: int) -> list[str] | None:
    """Returns a process's fields behind its name, None if there is no such process."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields if len(fields) > _START_FIELD else None
