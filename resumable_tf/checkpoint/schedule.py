"""When a checkpointer saves: the policies, and what they are told.

    schedule = Schedule(policies, options)
    schedule.restored(state, saved)
    if schedule.is_due(step, is_saving=False):
        schedule.begin_save(elapsed())
        ...                                   # the snapshot
        schedule.after_snapshot(step)

Policies are pure; the little that must be remembered for them is here.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeVar

from resumable_tf.checkpoint.interval import AutoInterval
from resumable_tf.checkpoint.meter import CostMeter
from resumable_tf.checkpoint.options import SaveOptions
from resumable_tf.checkpoint.policy import (
    AnyOf,
    AtSteps,
    EpochEnds,
    EverySecs,
    EverySteps,
    LastSave,
    Moment,
    OnImprovement,
    SavePolicy,
)
from resumable_tf.checkpoint.retention import Candidate
from resumable_tf.state import TrainState

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_WITHOUT_METRICS = (EverySteps, EverySecs, AtSteps, EpochEnds, AutoInterval)
_WITHOUT_EPOCHS = (EverySteps, EverySecs, AtSteps, OnImprovement, AutoInterval)
_MOST_STEPS = 2**40


class Schedule:
    """Decides when a save is due; used from the training's thread.

    Attributes:
        num_skipped: Saves that were due while another was in flight, and left out.
        is_momentary: Whether a policy found the last moment due for its metrics, so
            that a save of a later step would not be the same.
    """

    is_momentary = False

    def __init__(self, policies: Sequence[SavePolicy], options: SaveOptions) -> None:
        """Remembers its arguments.

        Args:
            policies: What makes a save due.
            options: The clock, and what happens while a save is in flight.
        """
        self.num_skipped = 0
        self._policy = AnyOf(*policies)
        self._elapsed = options.elapsed
        self._when_busy = options.when_busy
        self._last = LastSave(step=0, secs=self._elapsed())
        self._meter = CostMeter(self._last.secs)
        self._is_owed = False
        self._asked: LastSave | None = None
        # Replaced as a whole, by the writer's thread too.
        self._saved_metrics: Mapping[str, tuple[float, float]] = {}
        # By step, of what is to be copied; each change and look is one operation.
        self._copied_metrics: dict[int, Mapping[str, float]] = {}
        self._state: TrainState | None = None

    @property
    def last_step(self) -> int:
        """The step of the save or restore that came last."""
        return self._last.step

    @property
    def asked_step(self) -> int | None:
        """The newest step that a policy has asked for and nobody has saved since."""
        return None if self._asked is None else self._asked.step

    @property
    def needs_metrics(self) -> bool:
        """Whether a policy compares with the metrics of earlier checkpoints."""
        return not _are_all(self._policy, _WITHOUT_METRICS)

    def restored(self, state: TrainState, saved: Iterable[Candidate]) -> None:
        """Begins anew after a restore.

        Args:
            state: The live objects.
            saved: The committed checkpoints, as far as `needs_metrics` asks for them;
                those beyond the state do not count.
        """
        self._state = state
        self._note_save(state.step)
        self._meter = CostMeter(self._last.secs)
        self._saved_metrics = {}
        self._copied_metrics.clear()
        for candidate in saved:
            if candidate.step <= state.step:
                self.committed(candidate.metrics)

    def is_due(
        self,
        step: int,
        *,
        is_saving: bool,
        epoch: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Returns whether to save now; measures the steps since the call before.

        A save that is due while another is in flight may be skipped, which is counted,
        or put off.
        """
        now_secs = self._elapsed()
        self._meter.after_step(step, now_secs)
        now = Moment(
            step=step,
            secs=now_secs,
            epoch=epoch,
            metrics=dict(metrics or {}),
            saved_metrics=_ranges(
                self._saved_metrics, *list(self._copied_metrics.values())
            ),
            costs=self._meter.costs,
            is_saving=is_saving,
        )
        is_due = self._is_owed or self._policy.should_save(now, last=self._last)
        self.is_momentary = is_due and _is_for_metrics(self._policy, now, self._last)
        if is_due:
            self._note_asked(now)
        if not is_due or not is_saving or self._when_busy == "wait":
            return is_due
        if self._when_busy == "coalesce":
            self._is_owed = True
        else:
            self._skip(now)
        return False

    def next_save_step(self, step: int) -> int | None:
        """Returns the next step that is known to be due, None if none is."""
        next_epoch_step = None
        if not _are_all(self._policy, _WITHOUT_EPOCHS):
            next_epoch_step = _next_epoch_step(self._state, step)
        return self._policy.next_save_step(
            Moment(step=step, next_epoch_step=next_epoch_step)
        )

    def begin_save(self, stopped_secs: float) -> None:
        """Takes note that the training stands still for a save, since when.

        No other save is in flight.
        """
        self._meter.begin_save(stopped_secs)

    def after_snapshot(self, state: TrainState) -> None:
        """Takes note that the training goes on, with a save in flight."""
        self._state = state
        self._note_save(state.step)
        self._meter.after_snapshot(self._last.secs)

    def put_off(self, state: TrainState) -> None:
        """Goes on as if this step were saved: the next save that is due is another."""
        self._state = state
        self._note_save(state.step)

    def made_up(self, step: int) -> None:
        """Takes note that a step was saved here after all, from another tier."""
        self._note_save(step)

    def count_from(self, step: int, state: TrainState) -> None:
        """Counts from a save of an earlier step, of long ago."""
        self._last = LastSave(step=step, secs=0.0, epoch=state.epoch_of(step))

    def timed(self, job: Callable[[], _T]) -> Callable[[], _T]:
        """Returns the same job of the writer, which notes when it is over."""

        def run() -> _T:
            try:
                return job()
            finally:
                self.end_save()

        return run

    def end_save(self) -> None:
        """Takes note that the save is over; called from any thread."""
        self._meter.end_save(self._elapsed())

    def committed(self, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a committed checkpoint; by the writer's thread too."""
        self._saved_metrics = _ranges(self._saved_metrics, metrics)

    def begin_copy(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of what will be committed here too, if all goes well."""
        self._copied_metrics[step] = metrics

    def end_copy(self, step: int, metrics: Mapping[str, float] | None) -> None:
        """Takes what was committed here, None if nothing; called from any thread."""
        if metrics is not None:
            self.committed(metrics)
        self._copied_metrics.pop(step, None)

    def _note_asked(self, now: Moment) -> None:
        # What stays due is not asked for at each step anew.
        if self._asked is None or self._policy.should_save(now, last=self._asked):
            self._asked = LastSave(step=now.step, secs=now.secs, epoch=now.epoch)

    def _note_save(self, step: int) -> None:
        self._is_owed, self._asked = False, None
        epoch = None
        if self._state is not None:
            is_live = step == self._state.step
            epoch = self._state.position()[0] if is_live else self._state.epoch_of(step)
        self._last = LastSave(step=step, secs=self._elapsed(), epoch=epoch)

    def _skip(self, now: Moment) -> None:
        self.num_skipped += 1
        self._last = LastSave(step=now.step, secs=now.secs, epoch=now.epoch)
        if self.num_skipped & (self.num_skipped - 1) == 0:  # The 1st, 2nd, 4th, ...
            _log.warning(
                "the save of step %d is skipped, since the one before is not done "
                "(skipped so far: %d); save less often, or use faster storage",
                *(now.step, self.num_skipped),
            )


def save_when(
    options: SaveOptions,
    *,
    every_steps: int | Literal["auto"] | None,
    every_secs: float | None,
) -> list[SavePolicy]:
    """Returns the policies of a checkpointer.

    Args:
        options: Whose `save_when` comes first.
        every_steps: A period, or "auto" for an `AutoInterval`.
        every_secs: A period.

    Raises:
        ValueError: If a period is not positive.
    """
    policies = [*options.save_when]
    if every_steps == "auto":
        policies.append(AutoInterval())
    elif every_steps is not None:
        policies.append(EverySteps(every_steps))
    if every_secs is not None:
        policies.append(EverySecs(every_secs))
    return policies


def _are_all(policy: SavePolicy, classes: tuple[type, ...]) -> bool:
    """Returns whether a policy, or each that it combines, is of certain classes."""
    if isinstance(policy, AnyOf):
        return all(_are_all(one, classes) for one in policy.policies)
    return isinstance(policy, classes)


def _is_for_metrics(policy: SavePolicy, now: Moment, last: LastSave) -> bool:
    """Returns whether a policy, or one that it combines, would not save without."""
    if isinstance(policy, AnyOf):
        return any(_is_for_metrics(one, now, last) for one in policy.policies)
    without = dataclasses.replace(now, metrics={})
    is_due = bool(now.metrics) and policy.should_save(now, last=last)
    return is_due and not policy.should_save(without, last=last)


def _ranges(
    known: Mapping[str, tuple[float, float]], *metrics: Mapping[str, float]
) -> Mapping[str, tuple[float, float]]:
    """Returns lowest and highest values, of more metrics than before."""
    ranges = dict(known)
    for one in metrics:
        for name, value in one.items():
            lowest, highest = ranges.get(name, (value, value))
            ranges[name] = min(lowest, value), max(highest, value)
    return ranges


def _next_epoch_step(state: TrainState | None, step: int) -> int | None:
    """Returns the first step after `step` whose next batch is of a later epoch."""
    if state is None or state.epoch_of(step) is None:
        return None
    epoch = state.epoch_of(step) or 0

    def is_later(other: int) -> bool:
        return (state.epoch_of(other) or 0) > epoch

    width = 1
    while not is_later(step + width):
        width *= 2
        if width > _MOST_STEPS:
            return None
    low, high = step + width // 2, step + width
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_later(middle) else (middle, high)
    return high
