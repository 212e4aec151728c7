"""Tells from heartbeats whether a training hangs.

    watchdog = Watchdog(WatchdogSettings(), now=clock())
    watchdog.see(beat, now=clock())
    watchdog.is_hung(now=clock())

What is usual is learned: the median time between two steps that were told. The first
step, which compiles, and the time before it are not counted.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

from resumable_tf.errors import UsageError
from resumable_tf.supervising.heartbeat import Beat

_WINDOW = 51


@dataclass(frozen=True)
class WatchdogSettings:
    """When a silence is too long.

    Attributes:
        factor: Times the median time between steps.
        min_secs: But never less; evaluations and slow saves take their time.
        max_idle_secs: Longest time outside training: imports, data preparation, a
            restore, compilation, the last save.
    """

    factor: float = 20.0
    min_secs: float = 300.0
    max_idle_secs: float = 3600.0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UsageError: If one can't work; it names the flag.
        """
        for name in ("factor", "min_secs", "max_idle_secs"):
            value = getattr(self, name)
            if not value > 0:
                flag = "--hang-" + name.replace("_", "-")
                raise UsageError(f"{flag} {value:g}: it must be larger than 0")


class Watchdog:
    """Follows one process; a process without heartbeats never hangs."""

    def __init__(self, settings: WatchdogSettings, *, now: float) -> None:
        """Begins with a process that has told nothing."""
        self._settings = settings
        self._last: Beat | None = None
        self._since = now
        self._intervals: deque[float] = deque(maxlen=_WINDOW)

    def see(self, beat: Beat, *, now: float) -> None:
        """Takes the newest record of the process."""
        if beat == self._last:
            return
        last, self._last = self._last, beat
        was_training = last is not None and last.is_training
        if was_training and beat.is_training:
            if last is not None and beat.step == last.step:
                return
            self._intervals.append(now - self._since)
        self._since = now

    def silence_secs(self, *, now: float) -> float:
        """Returns the seconds since something was heard."""
        return now - self._since

    def limit_secs(self) -> float | None:
        """Returns how long a silence may be now; None without heartbeats."""
        settings = self._settings
        if self._last is None:
            return None
        # Until there is an interval, the usual is unknown.
        if not self._last.is_training or not self._intervals:
            return max(settings.max_idle_secs, settings.min_secs)
        usual = statistics.median(self._intervals)
        return max(settings.min_secs, settings.factor * usual)

    def is_hung(self, *, now: float) -> bool:
        """Returns whether the silence has been too long."""
        limit = self.limit_secs()
        return limit is not None and self.silence_secs(now=now) > limit
