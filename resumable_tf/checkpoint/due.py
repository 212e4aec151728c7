"""When a save is due in which tier.

due = Due(durable=AnyOf(EverySteps(1000)), fast=AnyOf(EverySteps(50)), clock=clock)
due.in_fast(step), due.in_durable(step)
due.saved(step, in_durable=False)
"""

from __future__ import annotations

from collections.abc import Callable

from resumable_tf.checkpoint.options import SaveOptions
from resumable_tf.checkpoint.policy import (
    AnyOf,
    EverySecs,
    EverySteps,
    LastSave,
    SavePolicy,
)


class Due:
    """Two policies, and the saves that they count from.

    Attributes:
        last_step: Step of the last save or restore in any tier.
    """

    def __init__(
        self,
        *,
        durable: SavePolicy,
        fast: SavePolicy | None,
        clock: Callable[[], float],
    ) -> None:
        """Counts from step 0 and now.

        Args:
            durable: For the durable tier.
            fast: For the fast tier, None without.
            clock: Seconds since 1970.
        """
        self._durable = durable
        self._fast = AnyOf() if fast is None else fast
        self._clock = clock
        self._last_durable = self._last_fast = LastSave(step=0, time=clock())

    @property
    def last_step(self) -> int:
        """Step of the last save or restore in any tier."""
        return self._last_fast.step

    def in_durable(self, step: int) -> bool:
        """Returns whether the durable tier is due after `step` completed steps."""
        last = self._last_durable
        return self._durable.should_save(step, self._clock(), last=last)

    def in_fast(self, step: int) -> bool:
        """Returns whether the fast tier is due after `step` completed steps."""
        return self._fast.should_save(step, self._clock(), last=self._last_fast)

    def next_save_step(self, step: int) -> int | None:
        """Returns the nearest step after `step` that a policy knows, None without."""
        return AnyOf(self._durable, self._fast).next_save_step(step)

    def restored(self, step: int, *, durable: LastSave | None) -> None:
        """Counts from a restore.

        Args:
            step: What was restored; 0 for a new run.
            durable: The durable save that it goes on from, None if that is it.
        """
        now = self._clock()
        self._last_durable = self._last_fast = LastSave(step=step, time=now)
        if durable is not None and step > durable.step:
            # Saves that are missing there are made up for.
            self._last_durable = durable

    def saved(self, step: int, *, time: float, in_durable: bool) -> None:
        """Counts from a save."""
        self._last_fast = LastSave(step=step, time=time)
        if in_durable:
            self._last_durable = self._last_fast


def _periods(
    *, every_steps: int | None, every_secs: float | None
) -> tuple[SavePolicy, ...]:
    """Returns the policies that two periods mean; None means no such policy.

    Raises:
        ValueError: If a period is not positive.
    """
    found: list[SavePolicy] = []
    if every_steps is not None:
        found.append(EverySteps(every_steps))
    if every_secs is not None:
        found.append(EverySecs(every_secs))
    return tuple(found)


def make_due(
    options: SaveOptions, *, every_steps: int | None, every_secs: float | None
) -> Due:
    """Returns what is due by a checkpointer's arguments.

    Args:
        options: With policies for the durable tier, perhaps a fast tier, and the clock.
        every_steps: For the durable tier; None does not.
        every_secs: The same in seconds.

    Raises:
        ValueError: If a period is not positive.
    """
    durable = _periods(every_steps=every_steps, every_secs=every_secs)
    fast = options.fast_tier
    return Due(
        durable=AnyOf(*options.save_when, *durable),
        fast=None if fast is None else fast.policy,
        clock=options.clock,
    )
