"""The places of one run's checkpoints, as one: a durable tier, perhaps a fast one.

    tiers = Tiers(durable, fast)
    tiers.begin()
    tiers.candidates()              # what may be restored, best first
    tiers.write(snapshot, draft)    # commits in the fast tier, if there is one
    tiers.note_newer()
    tiers.copies.start(step)        # and from there in the durable one, by a thread
    tiers.tidy(step)
    tiers.end()

Without a fast tier everything happens in the durable one, and nothing is copied.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from resumable_tf.checkpoint.copies import Copies, Over, ignore
from resumable_tf.checkpoint.fast_record import read_record
from resumable_tf.checkpoint.manifest import CheckpointInfo, Manifest
from resumable_tf.checkpoint.options import SaveOptions
from resumable_tf.checkpoint.ownership import Ownership
from resumable_tf.checkpoint.retention import KeepAny, KeepNewest
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.checkpoint.tier_choice import DURABLE, FAST, Place, choose
from resumable_tf.errors import UsageError
from resumable_tf.state import Snapshot
from resumable_tf.storage.private_directory import check_private, make_private

_log = logging.getLogger(__name__)


class Tiers:
    """A durable tier and perhaps a fast one.

    Attributes:
        durable: The run directory.
        fast: The fast tier, None without.
        copies: From the fast tier to the durable one.
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
        # Whether the fast tier knows what this start has found.
        self._is_settled = False
        # Digests of what was moved out of the way and is not on record yet.
        self._newer: list[str] = []
        self._owned = None if fast is None else Ownership(durable, fast)
        self.copies = Copies(
            durable, fast, self._owned, is_nice=is_nice, after_copy=after_copy
        )

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
            StorageError: If the fast tier is another user's, or others can write there.
            UsageError: If one of them holds checkpoints of another program.
        """
        self._make_private()
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
        if self.fast is not None and not self.fast.lease.is_held:
            self._make_private()
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
        if path := self._fast_path:
            check_private(path)
        record = self._owned.record() if self._owned is not None else None
        if self.fast is None or record is None:
            return [Place(DURABLE, step) for step in reversed(steps)]
        # Digests of the others don't matter.
        needed = steps if record.superseded else steps[-1:]
        read = {step: self._digest(step) for step in needed}
        return choose(
            fast=_left(self.fast, FAST, without),
            durable={step: read.get(step, "") for step in steps},
            known=record.known,
            superseded=record.superseded,
        )

    def _digest(self, step: int) -> str:
        """Returns a durable checkpoint's digest; an unknown one if it can't be read.

        Who restores finds that out, and what counts is looked at again without it.
        """
        return self.durable.catalog.digest_or_none(step) or ""

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
        return self.fast.write(snapshot, draft)

    def note_newer(self) -> None:
        """Lets the fast tier know what `write` has moved out of the way.

        Not before its commit, and also if a save in between has failed.

        Raises:
            SaveError: If the fast tier is gone.
        """
        if self._newer and self._owned is not None:
            self._owned.update(lambda record: record.superseding(*self._newer))
            self._newer = []

    def tidy(self, step: int) -> None:
        """Deletes what is not kept where `write` has just committed `step`.

        Raises:
            FencedOffError: If the lease was lost; nothing was deleted.
        """
        if self.fast is None:
            self.durable.tidy(step)
        else:
            self.fast.tidy(step, pinned=self.copies.pinned)

    def resume_copy(self, restored: CheckpointInfo, over: Over = ignore) -> None:
        """Completes a copy that a killed process has begun, if it is still wanted.

        Args:
            restored: What this start goes on from.
            over: Called when it is over.
        """
        record = None if self._owned is None else self._owned.record()
        if record is None or record.copying is None:
            return
        step = record.copying
        newest = max(self.durable.catalog.steps(), default=0)
        if newest < step <= restored.step:
            if Place(FAST, step) in self.candidates():
                self.copies.complete(step, restored, over)

    def restored(self, step: int) -> int | None:
        """Notes a restore; returns the step of the durable save that it goes on from.

        None without a fast tier: it is the restored one.
        """
        self._is_settled = False
        if self.fast is None:
            return None
        found = [one for one in self.durable.catalog.steps() if one <= step]
        self.copies.restored(max(found, default=0))
        return self.copies.durable_step

    @property
    def _fast_path(self) -> str | None:
        return None if self.fast is None else self.fast.storage.local_path("")

    def _make_private(self) -> None:
        """Makes the fast tier's directory, which nobody else may have prepared."""
        if path := self._fast_path:
            make_private(path)

    @property
    def _where(self) -> str:
        return self.durable.storage.root


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


def _left(tier: Tier, name: str, without: Collection[Place]) -> list[int]:
    return [step for step in tier.catalog.steps() if Place(name, step) not in without]
