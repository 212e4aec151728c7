"""Turns SIGTERM and SIGINT into "save, then stop".

    with StopSignal() as stop:
        while not stop.requested:
            ...

The handler only sets a flag: the training loop saves at the end of the running
call. A second signal of the kind gets the default treatment at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from resumable_tf.errors import EXIT_PREEMPTED, ResumableError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(ResumableError, SystemExit):
    """Training was asked to stop, and did so after a save.

    A program that does not catch it ends with exit code 75: start me again.

    Attributes:
        step: Completed steps in the checkpoint.
    """

    def __init__(self, message: str, *, step: int) -> None:
        """Stores the step beside the message."""
        super().__init__(message)
        self.step = step
        self.code = EXIT_PREEMPTED


class StopSignal:
    """Remembers that the process was asked to stop.

    Outside the main thread Python can't handle signals; there it stays silent and
    `requested` is False unless `request` is called.
    """

    def __init__(
        self, *, is_running: Callable[[FrameType | None], bool] = lambda frame: True
    ) -> None:
        """Installs nothing before `__enter__`.

        Args:
            is_running: Tells from the interrupted frame whether what is to be stopped
                still runs; if not, the signal gets the treatment it had before.
        """
        self._is_running = is_running
        self._requested: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> signal.Signals | None:
        """The signal that came, or None."""
        return self._requested

    def request(self, received: signal.Signals = signal.SIGTERM) -> None:
        """Asks for a stop as the signal would."""
        self._requested = received

    def __enter__(self) -> StopSignal:
        """Installs the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Puts the former handlers back."""
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        if self._is_running(frame):
            self._requested = signal.Signals(number)
        else:
            os.kill(os.getpid(), number)

    def _restore(self) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}
