"""When to save; `retention` says what to keep.

    when = AnyOf(EverySteps(1000), EverySecs(600))
    when.should_save(2000, now=clock(), last=LastSave(step=1000, time=0.0))

Policies are pure: they know nothing but their arguments.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class LastSave:
    """The save or restore that came last.

    Attributes:
        step: Its step.
        time: When it was, in the seconds of the checkpointer's clock.
    """

    step: int
    time: float


class SavePolicy(Protocol):
    """Decides when a checkpoint is due."""

    def should_save(self, step: int, now: float, *, last: LastSave) -> bool:
        """Returns whether to save after `step` completed steps."""

    def next_save_step(self, step: int) -> int | None:
        """Returns the next step after `step` that is due, None if none is known."""


@dataclasses.dataclass(frozen=True)
class EverySteps:
    """Saves at each multiple of `every_steps`.

    A step that was jumped over is made up for at the first call after it.
    """

    every_steps: int

    def __post_init__(self) -> None:
        """Checks the period.

        Raises:
            ValueError: If it is not positive.
        """
        if self.every_steps < 1:
            raise ValueError(f"every_steps must be 1 or more, not {self.every_steps}")

    def should_save(self, step: int, now: float, *, last: LastSave) -> bool:
        """Returns whether a multiple was reached since the last save."""
        return step // self.every_steps > last.step // self.every_steps

    def next_save_step(self, step: int) -> int | None:
        """Returns the next multiple after `step`."""
        return (step // self.every_steps + 1) * self.every_steps


@dataclasses.dataclass(frozen=True)
class EverySecs:
    """Saves when `every_secs` have passed since the last save, and a step was made."""

    every_secs: float

    def __post_init__(self) -> None:
        """Checks the period.

        Raises:
            ValueError: If it is not positive.
        """
        if not self.every_secs > 0:
            raise ValueError(f"every_secs must be positive, not {self.every_secs}")

    def should_save(self, step: int, now: float, *, last: LastSave) -> bool:
        """Returns whether the period is over."""
        return step > last.step and now - last.time >= self.every_secs

    def next_save_step(self, step: int) -> int | None:
        """Returns None: time does not know steps."""
        return None


@dataclasses.dataclass(frozen=True)
class AtSteps:
    """Saves at certain steps.

    A step that was jumped over is made up for at the first call after it.
    """

    steps: Collection[int]

    def __post_init__(self) -> None:
        """Checks the steps.

        Raises:
            ValueError: If there is none, or one that no training completes.
        """
        if not self.steps or min(self.steps) < 1:
            raise ValueError(f"steps must be 1 or more, not {sorted(self.steps)}")

    def should_save(self, step: int, now: float, *, last: LastSave) -> bool:
        """Returns whether one of them was reached since the last save."""
        return any(last.step < due <= step for due in self.steps)

    def next_save_step(self, step: int) -> int | None:
        """Returns the first of them after `step`."""
        return min((due for due in self.steps if due > step), default=None)


@dataclasses.dataclass(frozen=True)
class AutoInterval:
    """Chooses how long to wait between two saves, from what a save costs.

    Saving rarely loses work when the process dies, saving often loses time. Daly's
    estimate of the best interval balances the two (J. Daly, "A higher order estimate of
    the optimum checkpoint interval for restart dumps", 2006; its first term is
    Young's). It is lengthened until saving takes at most `max_overhead` of the time.

    Attributes:
        mean_secs_to_failure: Between two deaths of the process.
        max_overhead: Largest share of the time that saving may cost.
    """

    mean_secs_to_failure: float
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

    def every_steps(self, save_secs: float, *, step_secs: float) -> int:
        """Returns the same as a number of steps, rounded up.

        Args:
            save_secs: What a save costs the training.
            step_secs: What a step takes.

        Raises:
            ValueError: If one of them is not positive.
        """
        if not step_secs > 0:
            raise ValueError(f"step_secs must be positive, not {step_secs}")
        return max(1, math.ceil(self.interval_secs(save_secs) / step_secs))


def _daly_secs(save_secs: float, failure_secs: float) -> float:
    ratio = save_secs / (2.0 * failure_secs)
    if ratio >= 1.0:
        return failure_secs
    young = math.sqrt(2.0 * save_secs * failure_secs)
    return young * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - save_secs


class AnyOf:
    """Saves when one of several policies would; never without any."""

    def __init__(self, *policies: SavePolicy) -> None:
        """Takes the policies; none at all is a policy that never saves."""
        self.policies = policies

    def should_save(self, step: int, now: float, *, last: LastSave) -> bool:
        """Returns whether any policy says so."""
        return any(policy.should_save(step, now, last=last) for policy in self.policies)

    def next_save_step(self, step: int) -> int | None:
        """Returns the nearest step that a policy knows, None if none does."""
        known = [policy.next_save_step(step) for policy in self.policies]
        return min((due for due in known if due is not None), default=None)
