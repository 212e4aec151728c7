"""What a training tells its supervisor: the step it has completed.

    heartbeat = Heartbeat.from_environment()     # does nothing without a supervisor
    heartbeat.start()
    heartbeat.beat(step)                         # after each step; cheap

    read_beat(path)                              # the supervisor's side

The file has one record of a fixed length, written over in place: it needs no new block
on a full disk, and a checksum shows a record that is read while it is written.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

HEARTBEAT_VARIABLE = "RESUMABLE_TF_HEARTBEAT"
"""Environment variable with the path of the file."""

DUMP_SIGNAL = signal.SIGUSR1
"""Makes a training write the stacks of all its threads to standard error."""

_LENGTH = 160
_STDERR = 2
_NO_OTHER = os.O_NOFOLLOW | os.O_NONBLOCK
"""A link is not followed, and nobody waits for the other end of a pipe."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beat:
    """One record.

    Attributes:
        step: Completed steps; None before the first one of this process.
        is_training: Whether the next step is under way. Preparing data, restoring and
            the last save are not training.
        dumps_stacks: Whether `DUMP_SIGNAL` may be sent; otherwise it would kill.
        time: When it was written, in seconds since 1970.
        pid: Of the process that trains; 0 if it is not known.
    """

    step: int | None
    is_training: bool
    dumps_stacks: bool
    time: float
    pid: int = 0


class Heartbeat:
    """Writes the records; used from one thread."""

    def __init__(
        self,
        path: str | None,
        *,
        every_secs: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Writes nothing yet.

        Args:
            path: The file; None makes all calls do nothing.
            every_secs: Shortest time between two records of steps.
            clock: Seconds since 1970.
        """
        self._path = path
        self._every_secs = every_secs
        self._clock = clock
        self._beat = Beat(None, False, False, 0.0, os.getpid())
        self._written_at = float("-inf")
        self._has_warned = False

    @classmethod
    def from_environment(cls) -> Heartbeat:
        """Returns one that writes where the supervisor, if there is one, looks."""
        return cls(os.environ.get(HEARTBEAT_VARIABLE) or None)

    def start(self) -> None:
        """Tells that the process is there, and lets `DUMP_SIGNAL` dump its stacks."""
        if self._path is None:
            return
        # A program that uses the signal itself keeps it.
        is_free = signal.getsignal(DUMP_SIGNAL) in (signal.SIG_DFL, None)
        if is_free:
            faulthandler.register(DUMP_SIGNAL, file=_STDERR, all_threads=True)
        self._write(replace(self._beat, dumps_stacks=is_free))

    def beat(self, step: int) -> None:
        """Tells that training goes on after `step` completed steps."""
        if self._path is None:
            return
        # Without the first test the step before a pause could be lost.
        is_news = not self._beat.is_training
        if is_news or self._clock() - self._written_at >= self._every_secs:
            self._write(replace(self._beat, step=step, is_training=True))

    def pause(self, step: int | None = None) -> None:
        """Tells that no step is under way: training ends, or something long begins."""
        if self._path is None:
            return
        last = self._beat.step if step is None else step
        self._write(replace(self._beat, step=last, is_training=False))

    def _write(self, beat: Beat) -> None:
        now = self._clock()
        self._beat = replace(beat, time=now, pid=os.getpid())
        self._written_at = now
        try:
            # Not created here: a supervisor that has gone leaves no one to read it.
            file = os.open(str(self._path), os.O_WRONLY | _NO_OTHER)
            try:
                os.pwrite(file, _to_record(self._beat), 0)
            finally:
                os.close(file)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("the supervisor can't be told of steps: %s", error)


def create_heartbeat_file(path: str) -> None:
    """Makes the empty file that a training writes to."""
    with open(path, "xb") as file:
        file.write(b" " * _LENGTH)


def read_beat(path: str) -> Beat | None:
    """Returns the record in a file; None if there is none, or it is being written."""
    with open(path, "rb") as file:
        return parse_beat(file.read(_LENGTH))


def parse_beat(data: bytes) -> Beat | None:
    """Returns the record in a file's content; None if it is not whole."""
    text, _, checksum = data.rstrip().rpartition(b" ")
    if not text or checksum != _checksum(text):
        return None
    return Beat(**json.loads(text))


def _to_record(beat: Beat) -> bytes:
    text = json.dumps(asdict(beat), separators=(",", ":")).encode()
    return (text + b" " + _checksum(text)).ljust(_LENGTH)


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)
