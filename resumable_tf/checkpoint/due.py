"""When a save is due in which tier: a schedule for each.

due = Due(durable=Schedule(...), fast=Schedule(...))
if due.is_due(step, is_saving=False, is_copying=False):
    in_durable = due.take()         # or in the fast tier only
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from resumable_tf.checkpoint.manifest import CheckpointInfo
from resumable_tf.checkpoint.options import SaveOptions
from resumable_tf.checkpoint.policy import SavePolicy
from resumable_tf.checkpoint.retention import Candidate
from resumable_tf.checkpoint.schedule import Schedule
from resumable_tf.state import TrainState

_T = TypeVar("_T")


class Due:
    """The schedules of the tiers; used from the training's thread.

    Attributes:
        is_copied_later: Whether what was taken last goes to the fast tier, and from
            there to the durable one when the copy under way is over.
    """

    is_copied_later = False

    def __init__(self, policies: list[SavePolicy], options: SaveOptions) -> None:
        """Makes the schedules.

        Args:
            policies: For the durable tier.
            options: Say whether there is a fast tier, and when to save there.
        """
        fast = options.fast_tier
        self._when_busy = options.when_busy
        self._durable = Schedule(policies, options)
        self._fast = None if fast is None else Schedule([fast.policy], options)
        # Of what was found due and not saved yet: whether in the durable tier too.
        self._found: bool | None = None
        self._is_found_for_later = False

    @property
    def num_skipped(self) -> int:
        """Saves that were left out, since the one before was not done."""
        return sum(one.num_skipped for one in self._all(True))

    @property
    def last_step(self) -> int:
        """The step of the save or restore that came last in any tier."""
        return max(one.last_step for one in self._all(True))

    @property
    def asked_step(self) -> int | None:
        """The newest step that was due in the durable tier, and was not saved since."""
        return self._durable.asked_step

    @property
    def asked_anywhere(self) -> int | None:
        """The same for all tiers."""
        asked = [one.asked_step for one in self._all(True)]
        return max((step for step in asked if step is not None), default=None)

    @property
    def needs_metrics(self) -> bool:
        """Whether a policy compares with the metrics of earlier checkpoints."""
        return self._durable.needs_metrics

    def is_due(
        self,
        step: int,
        *,
        is_saving: bool,
        is_copying: bool,
        epoch: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Returns whether to save now in any tier; see `Schedule.is_due`.

        With a fast tier the durable one stays due while a copy is under way, if it is
        neither skipped nor put off: training never waits for a copy. What is due for
        its metrics is of this step or none: it is saved in the fast tier, whatever is
        due there, and copied later.
        """
        if self._fast is None:
            return self._durable.is_due(
                step, is_saving=is_saving, epoch=epoch, metrics=metrics
            )
        # Only what waits may wait for the fast tier's save too.
        is_busy = is_copying or (is_saving and self._when_busy != "wait")
        in_durable = self._durable.is_due(
            step, is_saving=is_busy, epoch=epoch, metrics=metrics
        )
        is_for_later = in_durable and is_copying and self._durable.is_momentary
        in_durable = in_durable and not is_copying
        in_fast = self._fast.is_due(
            step, is_saving=is_saving, epoch=epoch, metrics=metrics
        )
        is_due = in_durable or in_fast or is_for_later
        if is_due:
            self._found = in_durable or bool(self._found)
            self._is_found_for_later = is_for_later
        return is_due

    def take(self) -> bool:
        """Returns whether what is due is due in the durable tier too, and forgets it.

        What is saved although nothing is due goes to both.
        """
        found, self._found = self._found, None
        self.is_copied_later, self._is_found_for_later = self._is_found_for_later, False
        return found is not False

    def next_save_step(self, step: int) -> int | None:
        """Returns the next step that is known to be due, None if none is."""
        known = [one.next_save_step(step) for one in self._all(True)]
        return min((due for due in known if due is not None), default=None)

    def restored(
        self, state: TrainState, saved: Iterable[Candidate], *, durable: int | None
    ) -> None:
        """Begins anew after a restore.

        Args:
            state: The live objects.
            saved: See `Schedule.restored`.
            durable: The step that the durable tier has of this history; None if it
                has this very one. What is missing there is made up for.
        """
        self._found, self._is_found_for_later = None, False
        saved = list(saved)
        for one in self._all(True):
            one.restored(state, saved)
        if durable is not None and durable < state.step:
            self._durable.count_from(durable, state)

    def begin_save(self, stopped_secs: float, *, in_durable: bool) -> None:
        """Takes note that the training stands still for a save, since when."""
        for one in self._all(in_durable):
            one.begin_save(stopped_secs)

    def after_snapshot(self, state: TrainState, *, in_durable: bool) -> None:
        """Takes note that the training goes on, with a save in flight."""
        for one in self._all(in_durable):
            one.after_snapshot(state)

    def put_off(self, state: TrainState, *, in_durable: bool = True) -> None:
        """Goes on as if this step were saved: the next save that is due is another."""
        self._found, self._is_found_for_later = None, False
        for one in self._all(in_durable):
            one.put_off(state)

    def made_up(self, step: int) -> None:
        """Takes note that what was put off is in the durable tier now.

        Args:
            step: Of the checkpoint that was copied there.
        """
        self._found = None
        self._durable.made_up(step)

    def timed(self, job: Callable[[], _T]) -> Callable[[], _T]:
        """Returns the same job of the writer, which notes when it is over.

        With a fast tier a durable save is over when its copy is: see `end_copy`.
        """
        return (self._fast or self._durable).timed(job)

    def begin_write(
        self, step: int, metrics: Mapping[str, float], *, is_copied: bool
    ) -> None:
        """Takes the metrics of a save in flight, which count from here on.

        Otherwise a lesser improvement would be found before this one is committed, and
        take its place among what waits to be copied.

        Args:
            step: Which one.
            metrics: Its metrics.
            is_copied: Whether it is to be copied, with a fast tier.
        """
        if self._fast is None or is_copied:
            self._durable.begin_copy(step, metrics)

    def committed(
        self, step: int, metrics: Mapping[str, float], *, is_copied: bool
    ) -> None:
        """Takes the metrics of a committed checkpoint; by the writer's thread too.

        Args:
            step: Which one.
            metrics: Its metrics. With a fast tier they count while it is to be copied
                from there, and for good when it has been.
            is_copied: Whether it is to be copied.
        """
        if self._fast is None:
            self._durable.end_copy(step, metrics)
        elif is_copied:
            self._durable.begin_copy(step, metrics)

    def end_copy(self, step: int, info: CheckpointInfo | None) -> None:
        """Takes note that the copy of a durable save is over, or will not be made."""
        self._durable.end_save()
        self.end_late_copy(step, info)

    def end_late_copy(self, step: int, info: CheckpointInfo | None) -> None:
        """The same for one that was put off, whose cost is not measured."""
        self._durable.end_copy(step, None if info is None else info.manifest.metrics)

    def _all(self, in_durable: bool) -> list[Schedule]:
        if self._fast is None:
            return [self._durable]
        return [self._durable, self._fast] if in_durable else [self._fast]
