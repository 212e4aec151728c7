"""The places of one run's checkpoints, as one: a durable tier, perhaps a fast one.

    tiers = Tiers(durable, fast)
    tiers.begin()
    tiers.candidates()              # what may be restored, best first
    tiers.write(snapshot, draft)    # commits in the fast tier, if there is one
    tiers.start_copy(step)          # and from there in the durable one, by a thread
    tiers.finish()
    tiers.end()

Without a fast tier everything happens in the durable one, and nothing is copied.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection

from resumable_tf.checkpoint.failures import Failures
from resumable_tf.checkpoint.fast_record import read_record
from resumable_tf.checkpoint.integrity import verify_step
from resumable_tf.checkpoint.layout import QUARANTINE
from resumable_tf.checkpoint.manifest import CheckpointInfo, Manifest
from resumable_tf.checkpoint.options import SaveOptions
from resumable_tf.checkpoint.ownership import Ownership
from resumable_tf.checkpoint.retention import KeepAny, KeepNewest
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.checkpoint.tier_choice import DURABLE, FAST, Place, choose
from resumable_tf.checkpoint.writer import Writer
from resumable_tf.errors import UsageError
from resumable_tf.state import Snapshot

_log = logging.getLogger(__name__)


class Tiers:
    """A durable tier and perhaps a fast one.

    Attributes:
        durable: The run directory.
        fast: The fast tier, None without.
        durable_step: Step of the newest checkpoint that was found in the durable tier
            by a restore or copied there since; with a fast tier only.
        is_behind: Whether the last copy has failed.
    """

    def __init__(
        self,
        durable: Tier,
        fast: Tier | None = None,
        *,
        is_nice: bool = True,
        after_copy: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Remembers its arguments; nothing is read or written.

        Args:
            durable: The run directory.
            fast: The fast tier, None without.
            is_nice: Whether copying gives way to all other work on this machine.
            after_copy: Called by the copying thread with each step it has committed.
        """
        self.durable = durable
        self.fast = fast
        self._after_copy = after_copy
        self._copies = Writer(is_nice=is_nice)
        self.durable_step: int | None = None
        self.is_behind = False
        # Set by the thread that saves before the copy begins, cleared by the copy.
        self._pinned: int | None = None
        # Whether the fast tier knows what this start has found.
        self._is_settled = False
        # Digests of what was moved out of the way and is not on record yet.
        self._newer: list[str] = []
        self._owned = None if fast is None else Ownership(durable, fast)

    def save_secs(self) -> dict[str, float | None]:
        """Returns how long the last save took to each tier, None if not known."""
        durable = self.durable.last_write_secs
        if self.fast is None:
            return {DURABLE: durable}
        fast = self.fast.last_write_secs
        if durable is not None and fast is not None:
            durable += fast  # It is copied from there.
        return {DURABLE: durable, FAST: fast}

    def begin(self) -> None:
        """Takes the leases and tidies up what a killed process has left.

        Raises:
            FastTierMismatchError: If the fast tier is another run's.
            RunInUseError: If another process saves to one of them and is alive.
            UsageError: If one of them holds checkpoints of another program.
        """
        record = None if self.fast is None else read_record(self.fast.storage)
        self.durable.begin(completes=None if record is None else record.copying)
        try:
            if self.fast is not None and self._owned is not None:
                self.fast.lease.take()
                self._owned.claim()
                self.fast.begin()
        except BaseException:
            self.end()
            raise

    def take(self) -> None:
        """Takes the leases, unless they are held already.

        Raises:
            FastTierMismatchError: If the fast tier is another run's.
            RunInUseError: If another process saves to one of them and is alive.
        """
        self.durable.lease.take()
        if self.fast is not None and self._owned is not None:
            self.fast.lease.take()
            if not self._is_settled:
                self._owned.claim()

    def end(self) -> None:
        """Gives the leases back.

        Raises:
            SaveError: If a storage failed; the lease then runs out by itself.
        """
        try:
            if self.fast is not None:
                self.fast.end()
        finally:
            self.durable.end()

    def tier(self, place: Place) -> Tier:
        """Returns the tier of a place."""
        return self.fast if place.tier == FAST and self.fast else self.durable

    def candidates(self, *, without: Collection[Place] = ()) -> list[Place]:
        """Returns the checkpoints that may be restored, best first.

        Args:
            without: Those that are known to be damaged.

        Raises:
            FastTierMismatchError: If the fast tier is another run's.
        """
        steps = _left(self.durable, DURABLE, without)
        record = self._owned.record() if self._owned is not None else None
        if self.fast is None or record is None:
            return [Place(DURABLE, step) for step in reversed(steps)]
        # Digests of the others don't matter.
        needed = steps if record.superseded else steps[-1:]
        read = {step: self.durable.catalog.digest(step) for step in needed}
        return choose(
            fast=_left(self.fast, FAST, without),
            durable={step: read.get(step, "") for step in steps},
            known=record.known,
            superseded=record.superseded,
        )

    def checkpoints(self) -> list[CheckpointInfo]:
        """Returns the committed checkpoints with a sound manifest, oldest first.

        One that is in both tiers is listed as the durable one.
        """
        if self.fast is None:
            return self.durable.catalog.readable()
        found: dict[int, CheckpointInfo] = {}
        for place in sorted(self.candidates(), key=lambda one: one.tier == DURABLE):
            info = self.tier(place).catalog.info_or_none(place.step)
            if info is not None:
                found[info.step] = info
        return [found[step] for step in sorted(found)]

    def latest(self) -> CheckpointInfo | None:
        """Returns the checkpoint to restore, as far as manifests tell; None without."""
        for place in self.candidates():
            info = self.tier(place).catalog.info_or_none(place.step)
            if info is not None:
                return info
        return None

    def refuse_checkpoints(self) -> None:
        """Refuses to begin a run where there is one.

        Raises:
            UsageError: If there are checkpoints.
        """
        places = self.candidates()
        if places:
            raise UsageError(
                f"{self._where} has checkpoints up to step {places[0].step}; call "
                "restore_or_initialize(state) before the first save, or start a new "
                "run directory"
            )

    def write(self, snapshot: Snapshot, draft: Manifest) -> CheckpointInfo:
        """Writes and commits a checkpoint: in the fast tier, if there is one.

        Args:
            snapshot: The values.
            draft: The manifest, but for what the written files tell.

        Returns:
            The committed checkpoint.

        Raises:
            FencedOffError: If a lease was lost; nothing was committed.
            SaveError: If the bundle does not hold what the snapshot does.
        """
        if self.fast is None or self._owned is None:
            return self.durable.write(snapshot, draft)
        self.fast.lease.check()
        if not self._is_settled:
            self._newer += self._owned.settle(draft.step)
            self._is_settled = True
        info = self.fast.write(snapshot, draft)
        # Not before, and also if a save in between has failed.
        if self._newer:
            self._owned.update(lambda record: record.superseding(*self._newer))
            self._newer = []
        return info

    def tidy(self, step: int) -> None:
        """Deletes what is not kept where `write` has just committed `step`.

        Raises:
            FencedOffError: If the lease was lost; nothing was deleted.
        """
        if self.fast is None:
            self.durable.tidy(step)
        else:
            self.fast.tidy(step, pinned=self._pinned)

    def start_copy(self, step: int, over: Callable[[], None] = lambda: None) -> None:
        """Begins to copy a fast checkpoint to the durable tier; without, does nothing.

        The copy before must be over and its failure heard of.

        Args:
            step: Which one.
            over: Called by the copying thread when it is done or has failed.

        Raises:
            SaveError: If it has failed and was not.
        """
        fast, owned = self.fast, self._owned
        if fast is not None and owned is not None:
            self._pinned = step
            self._copies.submit(step, lambda: self._copy(fast, owned, step, over=over))

    def resume_copy(self, restored: CheckpointInfo) -> None:
        """Completes a copy that a killed process has begun, if it is still wanted.

        Args:
            restored: What this start goes on from.
        """
        fast, owned = self.fast, self._owned
        record = None if owned is None else owned.record()
        if fast is None or owned is None or record is None or record.copying is None:
            return
        step = record.copying
        newest = max(self.durable.catalog.steps(), default=0)
        if Place(FAST, step) not in self.candidates() or not (
            newest < step <= restored.step
        ):
            return
        _log.info("completing the copy of step %d to %s", step, self._where)
        self._pinned = step
        self._copies.submit(
            step, lambda: self._copy(fast, owned, step, restored=restored)
        )

    def is_copying(self) -> bool:
        """Returns whether a checkpoint is being copied."""
        return self._copies.is_busy()

    def finish(self) -> None:
        """Waits for the copy under way, and raises nothing."""
        self._copies.finish()

    def hear(self, failures: Failures) -> None:
        """Lets a copy's failure be heard of.

        Raises:
            SaveError: That failure, if the training must not go on.
        """
        failures.hear(self._copies)

    def raise_failure(self) -> None:
        """Raises a copy's failure, if nobody has heard of it.

        Raises:
            SaveError: That failure.
        """
        self._copies.raise_failure()

    def restored(self, step: int) -> int | None:
        """Notes a restore; returns the step of the durable save that it goes on from.

        None without a fast tier: it is the restored one.
        """
        self._is_settled = False
        if self.fast is None:
            return None
        found = [one for one in self.durable.catalog.steps() if one <= step]
        self.durable_step = max(found, default=0)
        return self.durable_step

    @property
    def _where(self) -> str:
        return self.durable.storage.root

    def _copy(
        self,
        fast: Tier,
        owned: Ownership,
        step: int,
        *,
        restored: CheckpointInfo | None = None,
        over: Callable[[], None] = lambda: None,
    ) -> CheckpointInfo:
        """Copies a checkpoint to the durable tier; on its own thread.

        `restored` is what this start goes on from, if an earlier process has begun the
        copy: the checkpoint may be damaged by now. Raises what has failed.
        """
        try:
            if restored is not None and not _is_good(fast, step):
                return restored
            digest = fast.catalog.digest(step)
            owned.update(lambda record: dataclasses.replace(record, copying=step))
            info = self.durable.copy(
                fast,
                step,
                completes=restored is not None,
                # Before the commit: a kill right after it must not make it a stranger.
                before_commit=lambda: owned.update(
                    lambda record: record.knowing(digest)
                ),
            )
            self.durable_step = step
            owned.update(lambda record: dataclasses.replace(record, copying=None))
            self.durable.tidy(step)
        except BaseException:
            self.is_behind = True
            _log.error("the copy of step %d to %s failed", step, self._where)
            raise
        finally:
            self._pinned = None
            over()
        self.is_behind = False
        self._after_copy(step)
        return info


def make_tiers(
    durable: Tier, options: SaveOptions, after_copy: Callable[[int], None]
) -> Tiers:
    """Returns a run's tiers; nothing is read or written.

    Args:
        durable: The run directory.
        options: Say whether there is a fast tier, and where.
        after_copy: Called with the step of each copy that is committed.

    Raises:
        UsageError: If both are one directory.
    """
    chosen, fast = options.fast_tier, None
    if chosen is not None:
        fast = Tier(
            chosen.storage,
            keep=KeepAny(KeepNewest(chosen.keep_last)),
            # A RAM disk is small.
            keeps_superseded=False,
        )
        if fast.storage.root == durable.storage.root:
            raise UsageError(
                f"the fast tier and the run directory are both {fast.storage.root}; "
                "give the fast tier a directory of its own"
            )
    is_nice = options.asynchronous
    return Tiers(durable, fast, is_nice=is_nice, after_copy=after_copy)


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


def _left(tier: Tier, name: str, without: Collection[Place]) -> list[int]:
    return [step for step in tier.catalog.steps() if Place(name, step) not in without]
