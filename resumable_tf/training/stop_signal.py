"""Remembers that this process was asked to stop, by SIGTERM or SIGINT.

    with StopSignal() as stop:
        while stop.requested is None:
            ...

Only the process that installed the handlers is asked by them. One that is forked from
it gets SIGTERM as without them. Ctrl-C reaches all processes of a terminal at once: a
forked one, which may have to give the training its next batch, leaves the first Ctrl-C
until the training has stopped.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_REPEAT_SECS = 1.0
"""Whoever ends a whole control group sends SIGTERM to this process and to its
supervisor, which passes it on: so long it counts as one."""
_ACTIVE, _ASKED, _ENDED = 0, 1, 2
_UNSHARED_SECS = 5.0
"""A Ctrl-C that the training has not got after this time was for the child alone."""
_POLL_SECS = 0.05


class StopSignal:
    """Remembers that the process was asked to stop.

    Outside the main thread Python can't handle signals; there it stays silent and
    `requested` is False unless `request` is called.

    Attributes:
        requested_at: When the signal came, by the clock; None before.
    """

    def __init__(
        self,
        *,
        is_running: Callable[[FrameType | None], bool] = lambda frame: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Installs nothing before `__enter__`.

        Args:
            is_running: Tells from the interrupted frame whether what is to be stopped
                still runs; if not, the signal gets the treatment it had before.
            clock: Seconds.
        """
        self._is_running = is_running
        self._clock = clock
        self._requested: signal.Signals | None = None
        self._first_at: float | None = None
        self.requested_at: float | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._pid: int | None = None
        # Forked processes see what becomes of it.
        self._shared = mmap.mmap(-1, 1)
        self._is_waiting = False

    @property
    def requested(self) -> signal.Signals | None:
        """The signal that came, or None."""
        return self._requested

    def request(self, received: signal.Signals = signal.SIGTERM) -> None:
        """Asks for a stop as the signal would."""
        self.requested_at = self._clock()
        self._requested = received

    def __enter__(self) -> StopSignal:
        """Installs the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._shared[0] = _ACTIVE
            if self._pid != os.getpid():
                self._pid = os.getpid()
                me = weakref.ref(self)
                os.register_at_fork(after_in_child=lambda: _leave(me))
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
        if os.getpid() != self._pid:
            self._handle_in_child(signal.Signals(number))
            return
        if not self._is_running(frame):
            self._restore()
            os.kill(os.getpid(), number)
            return
        now = self._clock()
        if self._first_at is None:
            self._first_at = now
            self._shared[0] = _ASKED
            # Who presses Ctrl-C now means it.
            self._put_former(signal.SIGINT)
            self.request(signal.Signals(number))
        elif now - self._first_at > _REPEAT_SECS:
            self._put_former(signal.Signals(number))
            os.kill(os.getpid(), number)

    def _put_former(self, number: signal.Signals) -> None:
        """Lets a signal have the treatment that it had before; it then forces."""
        previous = self._previous[number]
        # KeyboardInterrupt would be no force: what it ends waits for the save.
        is_pythons = previous is signal.default_int_handler
        signal.signal(number, signal.SIG_DFL if is_pythons else previous)

    def _restore(self) -> None:
        # A forked process got the former handlers when it was born.
        if os.getpid() != self._pid:
            return
        self._shared[0] = _ENDED
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    def leave(self) -> None:
        """Puts the former handlers into a process that was forked from this one."""
        if os.getpid() == self._pid:
            return
        for number in self._previous:
            former = self._former(number)
            is_ours = signal.getsignal(number) == self._handle
            if is_ours and former is not signal.default_int_handler:
                signal.signal(number, former)

    def _former(self, number: signal.Signals) -> Any:
        """Returns the treatment of a signal without this and all guards around it."""
        former = self._previous[number]
        around = getattr(former, "__self__", None)
        if isinstance(around, StopSignal) and number in around._previous:
            return around._former(number)
        return former

    def _handle_in_child(self, number: signal.Signals) -> None:
        if number == signal.SIGINT and not self._is_waiting and self._is_shared():
            self._is_waiting = True
            threading.Thread(target=self._wait_for_end, daemon=True).start()
            return
        self._get(number)

    def _get(self, number: signal.Signals) -> None:
        """Gives a signal to this forked process, as if there were no guard."""
        signal.signal(number, self._former(number))
        os.kill(os.getpid(), number)

    def _is_shared(self) -> bool:
        """Returns whether a terminal's Ctrl-C reaches the training too, and it runs."""
        if self._shared[0] == _ENDED or self._pid is None:
            return False
        try:
            return os.getpgid(self._pid) == os.getpgrp()
        except ProcessLookupError:
            return False

    def _wait_for_end(self) -> None:
        ends = time.monotonic() + _UNSHARED_SECS
        while self._is_shared():
            if self._shared[0] == _ACTIVE and time.monotonic() > ends:
                break
            time.sleep(_POLL_SECS)
        # Handlers are put in by the main thread only; the second time it takes it.
        os.kill(os.getpid(), signal.SIGINT)


def _leave(stop: weakref.ref[StopSignal]) -> None:
    found = stop()
    if found is not None:
        found.leave()
