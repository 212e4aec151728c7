"""Starts a program until it is finished.

    supervisor = Supervisor(Settings(command=["python", "train.py"]), events)
    exit_code = supervisor.run()

One thread: it sleeps, looks at the child and its heartbeat, and decides by the pure
functions of `restarts` and `watchdog`.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType

from resumable_tf.errors import EXIT_PREEMPTED, EXIT_USAGE, UsageError
from resumable_tf.supervising.child import Child
from resumable_tf.supervising.events import Events
from resumable_tf.supervising.heartbeat import (
    HEARTBEAT_VARIABLE,
    Beat,
    create_heartbeat_file,
    read_beat,
)
from resumable_tf.supervising.restarts import (
    Attempt,
    History,
    Restart,
    RestartPolicy,
    Stop,
    decide,
    how_it_ended,
)
from resumable_tf.supervising.watchdog import Watchdog, WatchdogSettings

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HELPERS_SECS = 5.0
"""For what an ended training leaves running: it could hold the TPU, or ports."""


@dataclass(frozen=True)
class Settings:
    """What to run and how.

    Attributes:
        command: Program and arguments.
        restarts: When to start it again.
        watchdog: When it hangs.
        stop_secs: How long it may take to save and end once it was asked to.
        dump_secs: Time to dump stacks before a hung program is ended.
        poll_secs: Time between two looks.
    """

    command: Sequence[str]
    restarts: RestartPolicy = field(default_factory=RestartPolicy)
    watchdog: WatchdogSettings = field(default_factory=WatchdogSettings)
    stop_secs: float = 300.0
    dump_secs: float = 1.0
    poll_secs: float = 0.2

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UsageError: If one can't work; it names the flag.
        """
        if not self.command or not self.command[0]:
            raise UsageError("there is no program to run; name it behind --")
        if not self.stop_secs >= 0:
            raise UsageError(f"--stop-secs {self.stop_secs:g}: it must be 0 or more")


WaitUntilReady = Callable[[Callable[[], bool]], str | None]
"""Waits until the machine can be used; returns None then, or why it can't be.

It looks now and then whether its argument says that the supervisor was asked to stop,
and returns then.
"""


def always_ready(is_stopping: Callable[[], bool]) -> None:
    """Waits for nothing: the machine is ready."""


_TOO_SLOW = "it did not stop in time"
_LEFT = "what it left running did not stop in time"


class Supervisor:
    """Runs one program, over and over; used in the main thread."""

    def __init__(
        self,
        settings: Settings,
        events: Events,
        *,
        wait_until_ready: WaitUntilReady = always_ready,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Starts nothing.

        Args:
            settings: What to run and how.
            events: Gets told what happens.
            wait_until_ready: Called before each start.
            clock: Seconds.
            jitter: A number from 0 to 1, to spread the restarts of many hosts.
        """
        self._settings = settings
        self._events = events
        self._wait_until_ready = wait_until_ready
        self._clock = clock
        self._jitter = jitter
        # Both are set by the signal handler, which runs in the same thread.
        self._stop_signals: list[int] = []
        self._stopping_since = float("inf")
        self._child: Child | None = None
        self._training: int | None = None

    def run(self) -> int:
        """Returns the exit code: that of `Stop`, which docs/supervisor.md lists."""
        previous = {number: signal.signal(number, self._forward) for number in _SIGNALS}
        try:
            with tempfile.TemporaryDirectory(prefix="resumable-tf-run-") as directory:
                stop, history = self._run(directory)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        self._events.emit(
            "stopped",
            exit_code=stop.exit_code,
            reason=stop.reason,
            num_starts=history.num_starts,
            best_step=history.best_step,
        )
        return stop.exit_code

    def _run(self, directory: str) -> tuple[Stop, History]:
        history = History()
        while True:
            obstacle = self._wait_until_ready(lambda: self._is_stopping)
            if self._is_stopping:
                return Stop(EXIT_PREEMPTED, "asked to stop"), history
            if obstacle is not None:
                return Stop(EXIT_PREEMPTED, obstacle), history
            path = os.path.join(directory, f"heartbeat-{history.num_starts + 1}")
            began = self._clock()
            try:
                child = self._start(path)
            except OSError as error:
                if history.num_starts:
                    raise
                return Stop(EXIT_USAGE, f"can't be started: {error}"), history
            watch = _Watch(
                *(self._settings, self._events, path, history.num_starts + 1, began)
            )
            attempt = self._attempt(child, watch)
            policy = self._settings.restarts
            history = history.after(attempt, steady_secs=policy.steady_secs)
            decision = decide(
                *(attempt, history, policy),
                jitter=self._jitter(),
                is_stopping=self._is_stopping,
            )
            if isinstance(decision, Stop):
                return decision, history
            self._back_off(decision, history)

    @property
    def _is_stopping(self) -> bool:
        return bool(self._stop_signals)

    def _start(self, path: str) -> Child:
        """Starts the program, which is to write its heartbeats to a file."""
        create_heartbeat_file(path)
        command = list(self._settings.command)
        return Child(command, {**os.environ, HEARTBEAT_VARIABLE: path})

    def _attempt(self, child: Child, watch: _Watch) -> Attempt:
        """Follows the program to its end."""
        self._child = child
        start, command = watch.start, list(self._settings.command)
        try:
            self._events.emit("started", start=start, pid=child.pid, command=command)
            if self._is_stopping:  # The signal came while there was no child.
                child.send(self._stop_signals[-1])
            code, is_hung = self._watch(child, watch)
            self._clear(child, watch)
        finally:
            self._child = self._training = None
            child.kill()
        attempt = Attempt(
            exit_code=code,
            last_step=None if watch.beat is None else watch.beat.step,
            ran_secs=self._clock() - watch.began,
            is_hung=is_hung,
            has_heartbeat=watch.beat is not None,
        )
        if not attempt.has_heartbeat:
            self._events.emit("no_heartbeat", start=start)
        self._events.emit(
            "ended",
            start=start,
            exit_code=code,
            how="finished" if code == 0 else how_it_ended(attempt),
            last_step=attempt.last_step,
            ran_secs=round(attempt.ran_secs, 3),
        )
        return attempt

    def _watch(self, child: Child, watch: _Watch) -> tuple[int, bool]:
        """Waits for the end; returns the exit code and whether the program hung."""
        while True:
            code = child.wait(self._settings.poll_secs)
            now = self._clock()
            watch.look(now)
            self._training = watch.training
            if code is not None:
                return code, False
            if self._is_stopping:
                if now - self._stopping_since > self._settings.stop_secs:
                    return watch.kill(child, _TOO_SLOW), False
            elif watch.is_hung(now):
                return self._end_hung(child, watch), True

    def _clear(self, child: Child, watch: _Watch) -> None:
        """Ends what the program has left running.

        A shell or another wrapper may have ended before the training behind it, which
        then gets all the time that it has to save.
        """
        began = self._clock()
        is_left = child.is_left() and child.send_all(signal.SIGTERM)
        while is_left:
            limit, since = self._settings.stop_secs, began
            if self._is_stopping:
                since = min(since, self._stopping_since)
            watch.look(self._clock())
            training = watch.training
            is_over = (
                not self._is_stopping if training is None else not child.has(training)
            )
            if is_over:
                limit, since = min(limit, _HELPERS_SECS), began
            if self._clock() - since > limit:
                watch.kill(child, _LEFT)
                return
            time.sleep(min(self._settings.poll_secs, 0.05))
            is_left = child.is_left()

    def _end_hung(self, child: Child, watch: _Watch) -> int:
        """Lets a hung program show its stacks, and ends it."""
        if watch.beat is not None and watch.beat.dumps_stacks:
            child.dump(watch.beat.pid)
            if (code := child.wait(self._settings.dump_secs)) is not None:
                return code
        # Perhaps it is slow only: then it saves.
        child.send(signal.SIGTERM, training=watch.training)
        ends = self._clock() + min(self._settings.stop_secs, 30.0)
        while self._clock() < ends:
            if (code := child.wait(self._settings.poll_secs)) is not None:
                return code
        return watch.kill(child, "it hung, and did not stop when asked to")

    def _back_off(self, decision: Restart, history: History) -> None:
        """Waits for the time of a restart, or for a signal."""
        self._events.emit(
            "restart",
            after_secs=round(decision.after_secs, 3),
            reason=decision.reason,
            num_fruitless=history.num_fruitless,
            best_step=history.best_step,
        )
        ends = self._clock() + decision.after_secs
        while not self._is_stopping and (left := ends - self._clock()) > 0:
            time.sleep(min(left, self._settings.poll_secs))

    def _forward(self, number: int, frame: FrameType | None) -> None:
        """Passes a signal on; the second one too, which makes the program end."""
        if not self._stop_signals:
            self._stopping_since = self._clock()
        self._stop_signals.append(number)
        child = self._child
        if child is not None:
            child.send(number, training=self._training)
        pid = None if child is None else child.pid
        self._events.emit("signal", signal=signal.Signals(number).name, pid=pid)


class _Watch:
    """What is known of the running program."""

    def __init__(
        self, settings: Settings, events: Events, path: str, start: int, began: float
    ) -> None:
        self.beat: Beat | None = None
        self._watchdog = Watchdog(settings.watchdog, now=began)
        self._events = events
        self._path = path
        self.start = start
        self.began = began

    @property
    def training(self) -> int | None:
        """The process that has told of steps; None if none has."""
        return None if self.beat is None else self.beat.pid or None

    def look(self, now: float) -> None:
        """Reads the newest heartbeat."""
        beat = read_beat(self._path)
        if beat is None:
            return
        had_step = self.beat is not None and self.beat.step is not None
        self.beat = beat
        self._watchdog.see(beat, now=now)
        if not had_step and beat.step is not None:
            secs = round(now - self.began, 3)
            self._events.emit("heartbeat", start=self.start, step=beat.step, secs=secs)

    def is_hung(self, now: float) -> bool:
        """Returns whether the program hangs, and says so."""
        if not self._watchdog.is_hung(now=now):
            return False
        self._events.emit(
            "hung",
            start=self.start,
            step=None if self.beat is None else self.beat.step,
            silence_secs=round(self._watchdog.silence_secs(now=now), 3),
            limit_secs=self._watchdog.limit_secs(),
        )
        return True

    def kill(self, child: Child, reason: str) -> int:
        """Ends the program by force; returns its exit code."""
        self._events.emit("killed", start=self.start, reason=reason)
        child.kill()
        return -signal.SIGKILL
