"""When to save; `retention` says what to keep, `interval` chooses by cost.

    when = AnyOf(EverySteps(1000), EverySecs(600), OnImprovement("bleu"))
    when.should_save(Moment(step=2000, secs=elapsed()), last=LastSave(step=1000))

Policies are pure: they know nothing but their arguments. Each step is asked about
once, right after it. A save because the process is asked to stop is no policy: the
training loop makes it, whatever the policies say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Protocol

from resumable_tf.errors import UsageError


@dataclasses.dataclass(frozen=True)
class LastSave:
    """The save or restore that came last.

    Attributes:
        step: Its step.
        secs: When it was, by the clock of `Moment.secs`.
        epoch: The epoch of the batch after it, None if unknown.
    """

    step: int
    secs: float = 0.0
    epoch: int | None = None


@dataclasses.dataclass(frozen=True)
class Costs:
    """What saving has cost this process so far.

    Attributes:
        begin_secs: When the process began to train, by the clock of `Moment.secs`.
        spent_secs: Time that all saves together have cost the training.
        save_secs: What one save costs, smoothed; None before the first one is over.
    """

    begin_secs: float
    spent_secs: float = 0.0
    save_secs: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moment:
    """All that a policy may know about the moment after a step.

    Attributes:
        step: Completed steps.
        secs: Time by a clock that never jumps; its zero means nothing.
        epoch: The epoch of the next batch, None if unknown.
        next_epoch_step: Completed steps at which the next epoch begins, None if
            unknown.
        metrics: What was measured at this step.
        saved_metrics: Lowest and highest value of each metric among the committed
            checkpoints.
        costs: What saving costs, None before anything was measured.
        is_saving: Whether a save is in flight.
    """

    step: int
    secs: float = 0.0
    epoch: int | None = None
    next_epoch_step: int | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    saved_metrics: Mapping[str, tuple[float, float]] = dataclasses.field(
        default_factory=dict
    )
    costs: Costs | None = None
    is_saving: bool = False


class SavePolicy(Protocol):
    """Decides when a checkpoint is due."""

    def should_save(self, now: Moment, *, last: LastSave) -> bool:
        """Returns whether to save now."""

    def next_save_step(self, now: Moment) -> int | None:
        """Returns the next step after this one that is due, None if none is known."""


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

    def should_save(self, now: Moment, *, last: LastSave) -> bool:
        """Returns whether a multiple was reached since the last save."""
        return now.step // self.every_steps > last.step // self.every_steps

    def next_save_step(self, now: Moment) -> int | None:
        """Returns the next multiple after this step."""
        return (now.step // self.every_steps + 1) * self.every_steps


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

    def should_save(self, now: Moment, *, last: LastSave) -> bool:
        """Returns whether the period is over."""
        return now.step > last.step and now.secs - last.secs >= self.every_secs

    def next_save_step(self, now: Moment) -> int | None:
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

    def should_save(self, now: Moment, *, last: LastSave) -> bool:
        """Returns whether one of them was reached since the last save."""
        return any(last.step < due <= now.step for due in self.steps)

    def next_save_step(self, now: Moment) -> int | None:
        """Returns the first of them after this step."""
        return min((due for due in self.steps if due > now.step), default=None)


@dataclasses.dataclass(frozen=True)
class EpochEnds:
    """Saves when an epoch has ended.

    Batches that run on across epochs end one at the first step after it.
    """

    def should_save(self, now: Moment, *, last: LastSave) -> bool:
        """Returns whether an epoch has ended since the last save.

        Raises:
            UsageError: If the epoch is unknown.
        """
        if now.epoch is None:
            raise UsageError(
                "EpochEnds does not know the epoch of step "
                f"{now.step}; give TrainState data that has steps_per_epoch or "
                "position(step), or set state.extra['epoch'] and state.extra['batch']"
            )
        return now.epoch > (last.epoch or 0)

    def next_save_step(self, now: Moment) -> int | None:
        """Returns the step at which the next epoch begins, None if unknown."""
        return now.next_epoch_step


@dataclasses.dataclass(frozen=True)
class OnImprovement:
    """Saves when a metric is better than in every checkpoint there is.

    The checkpoints' manifests are what it compares with, so that the best value
    survives a restart; keep the best one (`KeepBest`) for that. A save that has failed
    does not count. With a fast tier only those that reach the run directory do.

    Attributes:
        metric: As given to `maybe_save(metrics=...)`.
        is_higher_better: False for a loss.
    """

    metric: str
    is_higher_better: bool = True

    def should_save(self, now: Moment, *, last: LastSave) -> bool:
        """Returns whether this step has the metric, and a better one."""
        value = now.metrics.get(self.metric)
        if value is None or now.step <= last.step:
            return False
        if self.metric not in now.saved_metrics:
            return value == value  # NaN is never better.
        lowest, highest = now.saved_metrics[self.metric]
        return value > highest if self.is_higher_better else value < lowest

    def next_save_step(self, now: Moment) -> int | None:
        """Returns None: nobody knows."""
        return None


class AnyOf:
    """Saves when one of several policies would; never without any."""

    def __init__(self, *policies: SavePolicy) -> None:
        """Takes the policies; none at all is a policy that never saves."""
        self.policies = policies

    def should_save(self, now: Moment, *, last: LastSave) -> bool:
        """Returns whether any policy says so."""
        return any(policy.should_save(now, last=last) for policy in self.policies)

    def next_save_step(self, now: Moment) -> int | None:
        """Returns the nearest step that a policy knows, None if none does."""
        known = [policy.next_save_step(now) for policy in self.policies]
        return min((due for due in known if due is not None), default=None)
