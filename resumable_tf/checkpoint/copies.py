"""Copies from the fast tier to the run directory, beside the training.

    copies.start(step, over)        # by a thread of its own
    copies.put_off(step, over)      # once the copy under way is over
    copies.start_next()             # between two steps: begins that one, if it can
    copies.finish()

Without a fast tier nothing is ever copied.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable

from resumable_tf.checkpoint.failures import Failures
from resumable_tf.checkpoint.integrity import verify_step
from resumable_tf.checkpoint.layout import QUARANTINE
from resumable_tf.checkpoint.manifest import CheckpointInfo
from resumable_tf.checkpoint.ownership import Ownership
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.checkpoint.writer import Writer, after_commit

_log = logging.getLogger(__name__)

Over = Callable[[int, CheckpointInfo | None], None]
"""Called once with the step of a copy that is over, and what it has committed; None if
nothing. Mostly by the copying thread."""


def ignore(step: int, info: CheckpointInfo | None) -> None:
    """Does nothing, for a copy whose end is nobody's business."""


@dataclasses.dataclass(frozen=True)
class _Job:
    """A copy to make.

    Attributes:
        step: Of which checkpoint.
        over: See `Over`.
        restored: What this start goes on from, if an earlier process has begun the
            copy: the checkpoint may be damaged by now.
        is_late: Whether a copy of a newer one was begun before.
    """

    step: int
    over: Over
    restored: CheckpointInfo | None = None
    is_late: bool = False


class Copies:
    """Makes copies, one at a time.

    Attributes:
        durable_step: Step of the newest checkpoint that was found in the durable tier
            by a restore or copied there since; with a fast tier only.
    """

    def __init__(
        self,
        durable: Tier,
        fast: Tier | None,
        owned: Ownership | None,
        *,
        is_nice: bool,
        after_copy: Callable[[int], None],
    ) -> None:
        """Remembers its arguments; nothing is read or written.

        Args:
            durable: Where to copy to.
            fast: Where from; None without a fast tier.
            owned: The tie between both.
            is_nice: Whether copying gives way to all other work on this machine.
            after_copy: Called by the copying thread with each step it has committed.
        """
        self._durable, self._fast, self._owned = durable, fast, owned
        self._after_copy = after_copy
        self._writer = Writer(is_nice=is_nice)
        self.durable_step: int | None = None
        # Guards the next: the thread that saves and the one that copies set it.
        self._lock = threading.Lock()
        self._missed_step: int | None = None
        # Set before a copy begins, cleared by it.
        self._pinned: int | None = None
        # Set by the thread that saves, and by the training's while nothing is saved.
        self._waiting: _Job | None = None

    @property
    def pinned(self) -> set[int]:
        """Fast checkpoints that are being copied or will be, and must stay."""
        waiting = self._waiting
        steps = {self._pinned, None if waiting is None else waiting.step}
        return {step for step in steps if step is not None}

    @property
    def waiting_step(self) -> int:
        """The step that `start_next` will copy, 0 if there is none."""
        waiting = self._waiting
        return 0 if waiting is None else waiting.step

    @property
    def is_behind(self) -> bool:
        """Whether a copy that was due failed or was not begun, and none since was."""
        return self._missed_step is not None

    def start(self, step: int, over: Over = ignore) -> None:
        """Begins to copy a checkpoint.

        The copy before must be over and its failure heard of.

        Args:
            step: Which one.
            over: Called when it is over, also if it can't be begun.

        Raises:
            SaveError: If the copy before has failed and was not heard of.
        """
        waiting = self._waiting
        if waiting is not None and step > waiting.step:
            self._waiting = dataclasses.replace(waiting, is_late=True)
        elif waiting is not None:  # Training has gone back, or it is this one.
            self._drop_waiting()
        self._begin(_Job(step, over))

    def put_off(self, step: int, over: Over) -> None:
        """Leaves a checkpoint to `start_next`; takes the place of one left before.

        Args:
            step: Which one; it stays in the fast tier.
            over: Called when its copy is over, or will not be made.
        """
        if self._fast is None:
            return
        before, self._waiting = self._waiting, _Job(step, over)
        if before is not None:
            before.over(before.step, None)

    def start_next(self) -> None:
        """Begins the copy that was put off, if there is one and nothing is copied."""
        if self._waiting is not None and self._writer.is_free():
            waiting, self._waiting = self._waiting, None
            self._begin(waiting)

    def restored(self, durable_step: int) -> None:
        """Begins anew after a restore: a step that was missed may come once more.

        Args:
            durable_step: See the attribute.
        """
        self.durable_step = durable_step
        self._drop_waiting()
        with self._lock:
            self._missed_step = None if self._missed_step is None else 0

    def _drop_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.over(waiting.step, None)

    def leave_out(self, step: int, over: Over) -> None:
        """Takes note that a copy that is due can't be begun."""
        if self._fast is not None:
            self._miss(step)
            over(step, None)

    def complete(self, step: int, restored: CheckpointInfo, over: Over) -> None:
        """Completes the copy of a step that an earlier process has begun.

        Args:
            step: Which one; it may be damaged by now.
            restored: What this start goes on from.
            over: Called when it is over.
        """
        _log.info("completing the copy of step %d to %s", step, self._where)
        self._begin(_Job(step, over, restored))

    def is_busy(self) -> bool:
        """Returns whether a checkpoint is being copied."""
        return self._writer.is_busy()

    def finish(self) -> None:
        """Waits for the copy under way, and raises nothing."""
        self._writer.finish()

    def hear(self, failures: Failures) -> None:
        """Lets a copy's failure be heard of.

        Raises:
            SaveError: That failure, if the training must not go on.
        """
        failures.hear(self._writer)

    def raise_failure(self) -> None:
        """Raises a copy's failure, if nobody has heard of it.

        Raises:
            SaveError: That failure.
        """
        self._writer.raise_failure()

    @property
    def _where(self) -> str:
        return self._durable.storage.root

    def _begin(self, job: _Job) -> None:
        """Starts the copying thread."""
        fast, owned = self._fast, self._owned
        if fast is None or owned is None:
            return
        self._pinned = job.step
        try:
            self._writer.submit(job.step, lambda: self._run(job, fast, owned))
        except BaseException:
            self._pinned = None
            self.leave_out(job.step, job.over)
            raise

    def _run(self, job: _Job, fast: Tier, owned: Ownership) -> CheckpointInfo:
        """Copies a checkpoint to the durable tier; on its own thread.

        Raises what has failed.
        """
        committed = None
        try:
            if job.restored is not None and not _is_good(fast, job.step):
                return job.restored
            committed = self._copy(job, fast, owned)
            if not job.is_late:
                self.durable_step = job.step
            with after_commit("deleting what is not kept"):
                owned.update(lambda record: dataclasses.replace(record, copying=None))
                self._durable.tidy(job.step)
        except BaseException:
            self._miss(job.step)
            if committed is None:
                _log.error("the copy of step %d to %s failed", job.step, self._where)
            raise
        finally:
            self._pinned = None
            job.over(job.step, committed)
        with self._lock:
            # It does not make up for a newer one.
            if self._missed_step is not None and job.step >= self._missed_step:
                self._missed_step = None
        self._after_copy(job.step)
        return committed

    def _miss(self, step: int) -> None:
        with self._lock:
            self._missed_step = max(step, self._missed_step or 0)

    def _copy(self, job: _Job, fast: Tier, owned: Ownership) -> CheckpointInfo:
        digest = fast.catalog.digest(job.step)
        owned.update(lambda record: dataclasses.replace(record, copying=job.step))
        return self._durable.copy(
            fast,
            job.step,
            completes=job.restored is not None,
            is_late=job.is_late,
            # Before the commit: a kill right after it must not make it a stranger.
            before_commit=lambda: owned.update(lambda record: record.knowing(digest)),
        )


def _is_good(fast: Tier, step: int) -> bool:
    """Reads a checkpoint to its end; a damaged one goes into quarantine."""
    report = verify_step(fast.storage, step)
    if report.is_good:
        return True
    where = fast.catalog.set_aside(step, QUARANTINE)
    _log.warning(
        "checkpoint %d is damaged (%s); moved to %s, and not copied",
        *(step, "; ".join(report.problems), where),
    )
    return False
