"""How a save is made: one snapshot, one thread that writes it, what becomes of it.

saving = Saving(tiers, due, failures, options)
saving.make_way(state, in_durable=True)   # at most one snapshot is in memory
handle = saving.begin(state, draft, in_durable=True, stopped_secs=elapsed())
saving.wait()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from resumable_tf.checkpoint.due import Due
from resumable_tf.checkpoint.failures import Failures
from resumable_tf.checkpoint.manifest import CheckpointInfo, Manifest
from resumable_tf.checkpoint.options import SaveOptions
from resumable_tf.checkpoint.put_off import PutOff
from resumable_tf.checkpoint.tiers import Tiers
from resumable_tf.checkpoint.writer import SaveHandle, Writer, after_commit
from resumable_tf.state import Snapshot, TrainState

_log = logging.getLogger(__name__)

SaveNow = Callable[..., Any]
"""Saves a state: called with it, `metrics` and `in_durable`."""


class Saving:
    """Makes saves, one at a time; used from the training's thread.

    Attributes:
        committed_step: Step of the newest checkpoint that was restored or committed.
        writer: Writes it.
    """

    # Set by the writer's thread too; a plain assignment, read by displays only.
    committed_step: int | None = None

    def __init__(
        self, tiers: Tiers, due: Due, failures: Failures, options: SaveOptions
    ) -> None:
        """Takes its parts.

        Args:
            tiers: Where saves go.
            due: Is told of them.
            failures: Takes those that fail.
            options: Whether a save is waited for.
        """
        self.writer = Writer(is_nice=options.asynchronous)
        self._tiers, self._due, self._failures = tiers, due, failures
        self._copies = tiers.copies
        self._asynchronous = options.asynchronous
        self._is_copied_next = False
        self._put_off = PutOff()
        self._before_save = options.before_save
        self._before_write: Callable[[], None] = lambda: None

    @property
    def durable_step(self) -> int | None:
        """`committed_step`, but in the durable tier itself."""
        if self._tiers.fast is None:
            return self.committed_step
        return self._copies.durable_step

    def restored(self, state: TrainState, info: CheckpointInfo | None) -> None:
        """Begins anew after a restore, or without one."""
        self.committed_step = None if info is None else info.step
        self._failures.restored()
        durable = self._tiers.restored(state.step)
        catalog = self._tiers.durable.catalog
        saved = catalog.candidates() if self._due.needs_metrics else ()
        self._due.restored(state, saved, durable=durable)

    def resume_copy(self, restored: CheckpointInfo) -> None:
        """Completes a copy that a killed process has begun, if it is still wanted."""
        self._tiers.resume_copy(restored, self._due.end_late_copy)

    def is_due(
        self, step: int, *, epoch: int | None, metrics: Mapping[str, float] | None
    ) -> bool:
        """Returns whether to save now in any tier."""
        # What the writer is about to copy comes first.
        if not self.writer.is_busy():
            self._copies.start_next()
        return self._due.is_due(
            step,
            is_saving=self.writer.is_busy(),
            # In this order: a copy has begun before the writer is done.
            is_copying=(self._is_copied_next and self.writer.is_busy())
            or self._copies.is_busy(),
            epoch=epoch,
            metrics=metrics,
        )

    def pass_over(self, state: TrainState, metrics: Mapping[str, float] | None) -> None:
        """Looks at a state that is not saved now; `make_up` may have to save it."""
        if self._due.asked_anywhere is not None:
            self._put_off.note(state, metrics)

    def make_way(self, state: TrainState, *, in_durable: bool) -> None:
        """Does what must be over before the next snapshot.

        Raises:
            SaveError: If it has failed, and training must not go on.
        """
        self.writer.finish()
        if in_durable:
            self._copies.finish()
        self.raise_failure()
        if self._before_save is not None:
            self._before_write = self._before_save(state)

    def begin(
        self,
        state: TrainState,
        draft: Manifest,
        *,
        in_durable: bool,
        stopped_secs: float,
    ) -> SaveHandle:
        """Takes a snapshot and begins to write it, to the tiers that are due.

        Args:
            state: The live objects, between two steps.
            draft: Its manifest, but for what the written files tell.
            in_durable: Whether it goes to the durable tier; else to the fast one only.
            stopped_secs: When the training stopped for it.

        Returns:
            The save's handle.

        Raises:
            SaveError: Without `asynchronous`, if it failed.
        """
        self._due.begin_save(stopped_secs, in_durable=in_durable)
        self._is_copied_next = in_durable and self._tiers.fast is not None
        is_copied_later = self._due.is_copied_later and not in_durable
        snapshot = state.capture()
        job = self._due.timed(
            lambda: self._write(
                snapshot, draft, in_durable=in_durable, is_copied_later=is_copied_later
            )
        )
        self._due.begin_write(
            state.step, draft.metrics, is_copied=in_durable or is_copied_later
        )
        handle = self.writer.submit(state.step, job)
        if not self._asynchronous:
            self.finish()
        self._due.after_snapshot(state, in_durable=in_durable)
        if not self._asynchronous:
            self.writer.raise_failure()
            self._copies.raise_failure()
        return handle

    def finish(self) -> None:
        """Waits for the save in flight, in all tiers, and raises nothing."""
        self.writer.finish()
        self._copies.finish()

    def raise_failure(self) -> None:
        """Raises what an earlier save left, if training must not go on.

        Raises:
            SaveError: That failure.
        """
        self._failures.hear(self.writer)
        self._copies.hear(self._failures)

    def wait(self, *, for_copy: bool = True) -> None:
        """Waits for the save in flight, in all tiers.

        Args:
            for_copy: Whether also for its copy to the durable tier.

        Raises:
            SaveError: If it has failed, and training must not go on.
        """
        if for_copy:
            self.finish()
        self.writer.finish()
        self.raise_failure()

    def make_up(self, save: SaveNow | None) -> bool:
        """Makes what was due and put off; nothing is in flight.

        Args:
            save: Saves the live objects; None if they may be in the middle of a step.

        Returns:
            Whether nothing is missing any more.

        Raises:
            SaveError: If that fails, and training must not go on.
        """
        self._copy_put_off()
        asked, asked_anywhere = self._due.asked_step, self._due.asked_anywhere
        if asked_anywhere is None:
            return True
        has_newer = (self.committed_step or 0) >= asked_anywhere
        if save is None or has_newer or not self._put_off.is_still_so():
            return has_newer and asked is None
        metrics, in_durable = self._put_off.metrics, asked is not None
        save(self._put_off.state, metrics=metrics, in_durable=in_durable)
        self.wait()
        return True

    def end(self, save: SaveNow | None) -> None:
        """Waits for the last save, which must succeed in any case.

        Args:
            save: See `make_up`.

        Raises:
            SaveError: If it has failed, in any tier.
        """
        self.finish()
        self.writer.raise_failure()
        self._copies.raise_failure()
        if not self.make_up(save):
            _log.warning(
                "a save was due at step %d and put off, and is not made now: the "
                "training may be in the middle of a step; save(state) before the end",
                self._due.asked_anywhere,
            )
        self._failures.raise_last()

    def _copy_put_off(self) -> None:
        """Copies what was due in the durable tier and is in the fast one.

        Raises:
            SaveError: If that fails, and training must not go on.
        """
        asked, newest = self._due.asked_step, self.committed_step or 0
        made_step = max(self._copies.waiting_step, self.durable_step or 0)
        if asked is not None and made_step < asked <= newest:
            self._copies.start(newest, self._due.end_late_copy)
            self._copies.finish()
        # After the newest, which is what a process with little time left needs.
        self._copies.start_next()
        self._copies.finish()
        self.raise_failure()
        if asked is not None and asked <= (self.durable_step or 0):
            self._due.made_up(self.durable_step or 0)

    def _write(
        self,
        snapshot: Snapshot,
        draft: Manifest,
        *,
        in_durable: bool,
        is_copied_later: bool,
    ) -> CheckpointInfo:
        """Writes, commits and deletes what is not kept; on the writer's thread."""
        step = draft.step
        is_copied = in_durable or is_copied_later
        over = self._due.end_copy if in_durable else self._due.end_late_copy
        try:
            self._before_write()
            info = self._tiers.write(snapshot, draft)
        except BaseException:
            self._due.end_late_copy(step, None)
            if is_copied:
                self._copies.leave_out(step, over)
            raise
        finally:
            snapshot.release()
        self.committed_step = step
        self._due.committed(step, draft.metrics, is_copied=is_copied)
        try:
            with after_commit("noting what it replaces"):
                self._tiers.note_newer()
        finally:
            # Whatever else fails. From here on it is kept until it is copied.
            with after_commit("the begin of its copy"):
                if in_durable:
                    self._copies.start(step, over)
                elif is_copied_later:
                    self._copies.put_off(step, over)
        with after_commit("deleting what is not kept"):
            self._tiers.tidy(step)
        if not self._copies.is_behind:
            self._failures.succeeded(step)
        return info
