"""What saving costs the training, measured while it trains.

    meter = CostMeter(elapsed())
    meter.after_step(10, elapsed())    # after each call of the training step
    meter.begin_save(elapsed())
    meter.after_snapshot(elapsed())    # training goes on
    meter.end_save(elapsed())          # the writer's thread
    meter.costs                        # complete after the next step

A save costs the time that it blocks the training, and the slowdown of the steps while
it is written, against the usual time of a step.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import deque

from resumable_tf.checkpoint.policy import Costs

_WINDOW = 25
_WEIGHT_OF_NEWEST = 0.3
_LEAST_SAVE_SECS = 1e-3
"""Below it nothing can be told from noise, and no interval follows from zero."""


class CostMeter:
    """Measures; used from the training's thread, but for `end_save`.

    Attributes:
        costs: What was measured so far.
    """

    # Set by the writer's thread; a plain assignment.
    _ended_secs: float | None = None

    def __init__(self, begin_secs: float) -> None:
        """Begins without a measurement.

        Args:
            begin_secs: When the training begins.
        """
        self.costs = Costs(begin_secs=begin_secs)
        self._step_secs: deque[float] = deque(maxlen=_WINDOW)
        self._last: tuple[int, float] | None = None
        self._begun_secs = begin_secs
        self._cost_secs: float | None = None  # Of the save that is not over yet.

    def after_step(self, step: int, now_secs: float) -> None:
        """Takes the time since the call before; the same step again counts for nothing.

        The median of the last calls is the usual time, so that an evaluation or a
        compilation within one of them does no harm.

        Args:
            step: Completed steps.
            now_secs: The time.
        """
        ended_secs = self._ended_secs
        before = self._last
        if before is not None and step > before[0]:
            num_steps, secs = step - before[0], now_secs - before[1]
            if self._cost_secs is None:
                self._step_secs.append(secs / num_steps)
            else:
                # No save slows down longer than it is in flight.
                most = max(0.0, (ended_secs or now_secs) - before[1])
                usual = self._usual_secs(num_steps)
                self._cost_secs += most if usual is None else min(secs - usual, most)
        if before is None or step > before[0]:
            self._last = (step, now_secs)
        if ended_secs is not None:
            self._add_cost()

    def begin_save(self, now_secs: float) -> None:
        """Takes when the training stopped for a save; none is in flight any more."""
        self._add_cost()
        self._ended_secs = None
        self._begun_secs = now_secs

    def after_snapshot(self, now_secs: float) -> None:
        """Takes when the training went on."""
        self._cost_secs = now_secs - self._begun_secs
        if self._last is not None:
            self._last = (self._last[0], now_secs)

    def end_save(self, now_secs: float) -> None:
        """Takes when the save was over; called from any thread."""
        self._ended_secs = now_secs

    def _usual_secs(self, num_steps: int) -> float | None:
        if not self._step_secs:
            return None
        return statistics.median(self._step_secs) * num_steps

    def _add_cost(self) -> None:
        """Adds the save that is over to the costs, if there is one."""
        if self._cost_secs is None:
            return
        cost = max(self._cost_secs, _LEAST_SAVE_SECS)
        self._cost_secs = None
        before = self.costs.save_secs
        smoothed = cost if before is None else before
        self.costs = dataclasses.replace(
            self.costs,
            spent_secs=self.costs.spent_secs + cost,
            save_secs=smoothed + _WEIGHT_OF_NEWEST * (cost - smoothed),
        )
