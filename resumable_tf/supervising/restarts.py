"""Decides whether a program that has ended is started again, and when.

    history = history.after(attempt)
    decision = decide(attempt, history, RestartPolicy(), jitter=random.random())

Pure functions: what happened goes in, what to do comes out.
"""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass, replace

from resumable_tf.errors import (
    EXIT_CRASH_LOOP,
    EXIT_FINISHED,
    EXIT_PREEMPTED,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    UsageError,
)

_MAX_DOUBLINGS = 60
_SHELLS_WORDS = {126: "can't be executed", 127: "is not there"}
"""Exit codes of shells, and of `env` in a program's first line."""


@dataclass(frozen=True)
class RestartPolicy:
    """How often, and how fast.

    Attributes:
        max_fruitless: Restarts in a row without a new step, after which a further
            crash ends it all.
        first_delay_secs: Wait before the first restart that nothing is known for.
        max_delay_secs: The waits double up to this.
        steady_secs: A program without heartbeats that ran for so long counts as if it
            had made a new step.
    """

    max_fruitless: int = 3
    first_delay_secs: float = 1.0
    max_delay_secs: float = 300.0
    steady_secs: float = 600.0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UsageError: If one can't work; it names the flag.
        """
        if self.max_fruitless < 0:
            raise UsageError(f"--max-fruitless {self.max_fruitless}: must be 0 or more")
        for name in ("max_delay_secs", "steady_secs"):
            if not math.isfinite(getattr(self, name)):
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag} {getattr(self, name):g}: must be finite")
        if not 0 <= self.first_delay_secs <= self.max_delay_secs:
            raise UsageError(
                f"--first-delay-secs {self.first_delay_secs:g}: must be at least 0 and "
                f"at most --max-delay-secs, which is {self.max_delay_secs:g}"
            )


@dataclass(frozen=True)
class Attempt:
    """How one start of the program ended.

    Attributes:
        exit_code: As of `subprocess`: negative for a signal.
        last_step: Completed steps in its last heartbeat; None if it sent none.
        ran_secs: How long it ran.
        is_hung: Whether it was ended because no step came.
        has_heartbeat: Whether it sent any heartbeat, also without a step.
    """

    exit_code: int
    last_step: int | None
    ran_secs: float
    is_hung: bool = False
    has_heartbeat: bool = True


@dataclass(frozen=True)
class History:
    """What the starts so far have brought.

    Attributes:
        best_step: The largest step that any of them has completed.
        num_starts: How many there were.
        num_fruitless: Restarts in a row, up to now, that brought no new step.
    """

    best_step: int | None = None
    num_starts: int = 0
    num_fruitless: int = 0

    def after(self, attempt: Attempt, *, steady_secs: float) -> History:
        """Returns the history with one more attempt."""
        is_first = self.num_starts == 0
        has_progress = self._has_new_step(attempt) or (
            not attempt.has_heartbeat and attempt.ran_secs >= steady_secs
        )
        best = attempt.last_step if self._has_new_step(attempt) else self.best_step
        is_fruitful = has_progress or is_first
        return replace(
            self,
            best_step=best,
            num_starts=self.num_starts + 1,
            num_fruitless=0 if is_fruitful else self.num_fruitless + 1,
        )

    def _has_new_step(self, attempt: Attempt) -> bool:
        if attempt.last_step is None:
            return False
        return self.best_step is None or attempt.last_step > self.best_step


@dataclass(frozen=True)
class Restart:
    """Start the program again.

    Attributes:
        after_secs: When.
        reason: Why.
    """

    after_secs: float
    reason: str


@dataclass(frozen=True)
class Stop:
    """Let it be.

    Attributes:
        exit_code: Of the supervisor.
        reason: Why.
    """

    exit_code: int
    reason: str


def decide(
    attempt: Attempt,
    history: History,
    policy: RestartPolicy,
    *,
    jitter: float,
    is_stopping: bool = False,
) -> Restart | Stop:
    """Returns what to do after an attempt.

    Args:
        attempt: The last one.
        history: Of all attempts, this one included.
        policy: How often, how fast.
        jitter: From 0 to 1; spreads the restarts of many hosts.
        is_stopping: Whether the supervisor itself was asked to stop.
    """
    code = attempt.exit_code
    if code == EXIT_FINISHED:
        return Stop(EXIT_FINISHED, "finished")
    if code == EXIT_USAGE:
        return Stop(EXIT_USAGE, "wrong usage; a restart would not help")
    # Later on a disk may be gone for a while.
    is_new = history.num_starts == 1 and not attempt.has_heartbeat
    if code in _SHELLS_WORDS and is_new and not is_stopping:
        words = _SHELLS_WORDS[code]
        return Stop(EXIT_USAGE, f"can't be started: exit code {code}: it {words}")
    if is_stopping:
        return Stop(EXIT_PREEMPTED, "asked to stop; start it again to continue")
    # Preemption is no fault of the program: it is waited out, however often it comes.
    is_crash = code != EXIT_PREEMPTED or attempt.is_hung
    if is_crash and history.num_fruitless >= policy.max_fruitless:
        # Devices and hosts may come back: a service manager may well try again.
        is_gone = code == EXIT_UNAVAILABLE
        exit_code = EXIT_UNAVAILABLE if is_gone else EXIT_CRASH_LOOP
        return Stop(exit_code, _crash_loop(attempt, history))
    if not is_crash and history.num_fruitless == 0:
        return Restart(0.0, how_it_ended(attempt))
    doublings = min(history.num_fruitless, _MAX_DOUBLINGS)
    delay = min(policy.max_delay_secs, policy.first_delay_secs * 2.0**doublings)
    return Restart(delay * (0.5 + 0.5 * jitter), how_it_ended(attempt))


def how_it_ended(attempt: Attempt) -> str:
    """Returns the end of an attempt in words."""
    if attempt.is_hung:
        return "hung"
    if attempt.exit_code == EXIT_PREEMPTED:
        return "preempted"
    if attempt.exit_code < 0:
        try:
            return f"killed by {signal.Signals(-attempt.exit_code).name}"
        except ValueError:
            return f"killed by signal {-attempt.exit_code}"
    return f"crashed with exit code {attempt.exit_code}"


def _crash_loop(attempt: Attempt, history: History) -> str:
    step = history.best_step
    reached = "no step at all" if step is None else f"no step beyond {step}"
    return (
        f"crash loop: {history.num_fruitless} restarts brought {reached}; the last "
        f"one {how_it_ended(attempt)}"
    )
