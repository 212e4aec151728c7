"""How long to train between two saves, chosen from what a save costs.

    policy = AutoInterval(mean_secs_to_failure=86_400, max_overhead=0.01)
    policy.should_save(now, last=last)     # from now.costs
    policy.interval_secs(2.5)              # if a save costs 2.5 s

The decision is a pure function of the measurements, which `meter` takes.
"""

from __future__ import annotations

import dataclasses
import math

from resumable_tf.checkpoint.policy import LastSave, Moment

_FIRST_SAVE_SECS = 30.0


@dataclasses.dataclass(frozen=True)
class AutoInterval:
    """Chooses how long to wait between two saves, from what a save costs.

    Saving rarely loses work when the process dies, saving often loses time. Daly's
    estimate of the best interval balances the two (J. Daly, "A higher order estimate of
    the optimum checkpoint interval for restart dumps", 2006; its first term is
    Young's). It is lengthened until saving takes at most `max_overhead` of the time.

    The first save, after half a minute, is there to measure, and so that a process
    that keeps dying early gets on. Every start measures anew: it may be on another
    machine.

    Attributes:
        mean_secs_to_failure: Between two deaths of the process; four hours by default.
        max_overhead: Largest share of the time that saving may cost.
    """

    mean_secs_to_failure: float = 4 * 3600.0
    max_overhead: float = 0.01

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: If the time is not positive, or the share not within 0 and 1.
        """
        if not self.mean_secs_to_failure > 0:
            raise ValueError(
                "mean_secs_to_failure must be positive, not "
                f"{self.mean_secs_to_failure}"
            )
        if not 0 < self.max_overhead < 1:
            raise ValueError(
                f"max_overhead must be between 0 and 1, not {self.max_overhead}"
            )

    def should_save(self, now: Moment, *, last: LastSave) -> bool:
        """Returns whether the interval is over, and saving is within its share.

        The share counts all saves of this process: one that was dearer than thought
        is made up for before the next. Nothing is due while a save is in flight.
        """
        if now.step <= last.step or now.is_saving:
            return False
        waited_secs = now.secs - last.secs
        costs = now.costs
        if costs is None or costs.save_secs is None:
            return waited_secs >= _FIRST_SAVE_SECS
        spent_secs = costs.spent_secs + costs.save_secs
        may_spend_secs = self.max_overhead * (now.secs - costs.begin_secs)
        least_secs = self.interval_secs(costs.save_secs) + costs.save_secs
        return waited_secs >= least_secs and spent_secs <= may_spend_secs

    def next_save_step(self, now: Moment) -> int | None:
        """Returns None: it saves where calls of several steps end, and cuts none."""
        return None

    def interval_secs(self, save_secs: float) -> float:
        """Returns how long to train between two saves.

        Args:
            save_secs: What a save costs the training: the time it is blocked, and the
                slowdown of the steps meanwhile.

        Raises:
            ValueError: If `save_secs` is not positive.
        """
        if not save_secs > 0:
            raise ValueError(f"save_secs must be positive, not {save_secs}")
        cheapest = save_secs * (1.0 - self.max_overhead) / self.max_overhead
        return max(_daly_secs(save_secs, self.mean_secs_to_failure), cheapest)


def _daly_secs(save_secs: float, failure_secs: float) -> float:
    ratio = save_secs / (2.0 * failure_secs)
    if ratio >= 1.0:
        return failure_secs
    young = math.sqrt(2.0 * save_secs * failure_secs)
    return young * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - save_secs
