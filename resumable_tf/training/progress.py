"""Shows how training goes: a bar on a terminal, log lines elsewhere.

with Progress(stop_step=2000, start_step=0) as progress:
    progress.update(step, loss=..., num_tokens=..., last_checkpoint=...)
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from resumable_tf.checkpoint.failures import Failures

logger = logging.getLogger(__name__)

_LINE_EVERY_SECS = 30.0
_WINDOW = 20


class Progress:
    """Step, loss, tokens per second, time left and the last checkpoint."""

    def __init__(
        self,
        *,
        start_step: int,
        stop_step: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares the bar; nothing is shown before `__enter__`."""
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._stop_step = stop_step
        self._bar = Bar(
            TextColumn("[bold]step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(
            "", total=stop_step, completed=start_step, status=""
        )
        self._recent: deque[tuple[float, float]] = deque(maxlen=_WINDOW)
        self._next_line = 0.0

    def __enter__(self) -> Progress:
        """Shows the bar."""
        self._bar.start()
        self._recent.append((self._clock(), 0.0))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the bar as it stands."""
        self._bar.stop()

    @property
    def tokens_per_sec(self) -> float:
        """Target tokens a second over the last calls."""
        if len(self._recent) < 2:
            return 0.0
        elapsed = self._recent[-1][0] - self._recent[0][0]
        return sum(count for _, count in list(self._recent)[1:]) / max(elapsed, 1e-9)

    def update(
        self,
        step: int,
        *,
        loss: float,
        num_tokens: float,
        last_checkpoint: int | None,
        failures: Failures | None = None,
    ) -> None:
        """Shows the state after `step` completed steps.

        Args:
            step: Completed steps.
            loss: Mean loss per target token of the last step, in nats.
            num_tokens: Target tokens since the last update.
            last_checkpoint: Step of the newest committed checkpoint.
            failures: The failed saves since then.
        """
        now = self._clock()
        self._recent.append((now, num_tokens))
        status = (
            f"loss {loss:.3f}  {self.tokens_per_sec:,.0f} target tokens/s  "
            f"{describe_saves(last_checkpoint, failures)}"
        )
        self._bar.update(self._task, completed=step, status=status)
        if not self._console.is_terminal and now >= self._next_line:
            self._next_line = now + _LINE_EVERY_SECS
            logger.info("step %d/%d  %s", step, self._stop_step, status)


def describe_saves(last_checkpoint: int | None, failures: Failures | None) -> str:
    """Returns how saving goes, in one line.

    Args:
        last_checkpoint: Step of the newest committed checkpoint, None without.
        failures: The failed saves since then.
    """
    status = None if failures is None else failures.status
    if failures is None or status is None:
        saved = "none yet" if last_checkpoint is None else str(last_checkpoint)
        return f"last checkpoint {saved}"
    good = "none" if last_checkpoint is None else f"step {last_checkpoint}"
    return f"save failed {failures.count}x: {status} (last good: {good})"
