"""One place of a run's checkpoints, and what a save does there, in what order.

tier = Tier(open_storage("gs://bucket/run"), keep=KeepAny(KeepNewest(3)))
tier.begin()                          # from here on nobody else may write there
info = tier.write(snapshot, draft)    # on the writer's thread
tier.end()
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from resumable_tf.checkpoint.bundle import BundleWriter
from resumable_tf.checkpoint.catalog import Catalog
from resumable_tf.checkpoint.layout import (
    CHECKPOINTS,
    PINS,
    QUARANTINE,
    SUPERSEDED,
    manifest_name,
)
from resumable_tf.checkpoint.lease import Lease
from resumable_tf.checkpoint.manifest import CheckpointInfo, Manifest
from resumable_tf.checkpoint.retention import Candidate, KeepAny
from resumable_tf.checkpoint.tensorflow_errors import as_os_errors
from resumable_tf.errors import (
    ResumableError,
    SaveError,
)
from resumable_tf.state import Snapshot
from resumable_tf.storage import Storage
from resumable_tf.storage.transfer import Upload, upload_files

_log = logging.getLogger(__name__)


class Tier:
    """The checkpoints in one storage.

    Attributes:
        storage: Where they are.
        catalog: Which there are.
        lease: The right to write there.
        last_write_secs: How long the last write took, commit included, None before.
    """

    def __init__(
        self, storage: Storage, *, keep: KeepAny, keeps_superseded: bool = True
    ) -> None:
        """Remembers its arguments; nothing is read or written.

        Args:
            storage: Where the checkpoints are.
            keep: What to keep after a save.
            keeps_superseded: Whether what a save has moved out of the way stays, but
                for other copies of the same step.
        """
        self.storage = storage
        self.catalog = Catalog(storage)
        self.lease = Lease(storage)
        self._bundles = BundleWriter()
        self._keep = keep
        # Set by the writer's thread; a plain assignment.
        self.last_write_secs: float | None = None
        self._keeps_superseded = keeps_superseded

    def begin(self, *, completes: int | None = None) -> None:
        """Takes the lease and tidies up what a killed process has left.

        The lease is given back if that fails: what can't go on with the run does not
        keep others from it.

        Args:
            completes: A step whose unfinished copy will be completed; None for none.

        Raises:
            RunInUseError: If another process saves to the run and is alive.
            StorageError: If one of its directories is a link.
            UsageError: If the directory holds checkpoints of another program.
        """
        self.lease.take()
        try:
            for directory in ("", PINS, QUARANTINE, SUPERSEDED):
                self.storage.remove_dead_writes(directory)
            self.catalog.clean(keeps=completes)
            self.catalog.check_state_file()
        except BaseException:
            self.lease.release()
            raise

    def write(self, snapshot: Snapshot, draft: Manifest) -> CheckpointInfo:
        """Writes and commits a checkpoint, then deletes what is not kept.

        What is as new as it, or newer, is moved out of the way first.

        Args:
            snapshot: The values.
            draft: The manifest, but for what the written files tell.

        Returns:
            The committed checkpoint.

        Raises:
            FencedOffError: If the lease was lost; nothing was committed.
            OSError: If the storage failed; what was written is removed again.
            SaveError: If the bundle does not hold what the snapshot does.
        """
        began = time.monotonic()
        self._make_room(draft.step)
        try:
            with as_os_errors():
                manifest = self._bundles.write(
                    snapshot, self.storage, draft, check_right=self.lease.verify
                )
        except OSError as error:
            self._free_space(error)
            raise
        self.last_write_secs = time.monotonic() - began
        return self.catalog.committed(manifest)

    def copy(
        self,
        source: Tier,
        step: int,
        *,
        completes: bool,
        is_late: bool,
        before_commit: Callable[[], None],
    ) -> CheckpointInfo:
        """Copies and commits another tier's checkpoint, with the same manifest.

        Args:
            source: Where it is; it must stay there meanwhile.
            step: Which one.
            completes: Whether files of it that have arrived already may be used.
            is_late: Whether a newer one of the same history may be here, and stays.
            before_commit: Called right before the manifest is written.

        Returns:
            The committed checkpoint.

        Raises:
            FencedOffError: If the lease was lost; nothing was committed.
            SaveError: If the other tier's storage is no local one.
        """
        began = time.monotonic()
        manifest = source.catalog.read(step)
        uploads = []
        for record in manifest.files:
            name = f"{CHECKPOINTS}/{record.name}"
            path = source.storage.local_path(name)
            if path is None:
                raise SaveError(f"{source.storage.locate(name)} is no local file")
            uploads.append(Upload(name, path, record.crc32c))
        replaces = self._make_room(step, completes=completes, moves=not is_late)
        try:
            self._upload(uploads, completes=completes)
            before_commit()
            self.lease.verify()
            self.storage.create(manifest_name(step), manifest.to_bytes())
        except OSError as error:
            if replaces:  # Else the next start completes the copy.
                self._free_space(error)
            raise
        self.last_write_secs = time.monotonic() - began
        return self.catalog.committed(manifest)

    def tidy(self, step: int, *, pinned: Collection[int] = ()) -> None:
        """Deletes what is not kept, after `step` was committed.

        Args:
            step: The newest checkpoint.
            pinned: Steps that are in use, and stay.

        Raises:
            FencedOffError: If the lease was lost; nothing was deleted.
        """
        self.lease.check()
        if self._keep.needs_manifests:
            committed = self.catalog.candidates()
        else:
            committed = [Candidate(step) for step in self.catalog.steps()]
        doomed = self._keep.to_delete(committed)
        if doomed:
            kept = {*self.catalog.pinned(), *pinned}
            self.catalog.delete(step for step in doomed if step not in kept)
        self.catalog.check_state_file()
        self.catalog.drop_superseded(step if self._keeps_superseded else None)

    def end(self) -> None:
        """Gives the lease back.

        Raises:
            SaveError: If the storage failed; the lease then runs out by itself.
        """
        self.lease.release()

    def _upload(self, uploads: list[Upload], *, completes: bool) -> None:
        self.storage.make_dirs(CHECKPOINTS)
        self.lease.verify()
        try:
            upload_files(self.storage, uploads)
        except FileExistsError:
            if not completes:
                raise
            # If the lease still holds, an earlier process has left it, of another
            # save of this step.
            self.lease.verify()
            self.catalog.clean()
            upload_files(self.storage, uploads)

    def _make_room(
        self, step: int, *, completes: bool = False, moves: bool = True
    ) -> bool:
        """Moves what is as new as `step`, or newer, out of the way.

        Returns:
            Whether one of them comes back unless `step` is committed: that of the same
            step, or else the newest if none is older.
        """
        self.lease.check()
        self.catalog.clean(keeps=step if completes else None)
        steps = self.catalog.steps() if moves else []
        newer = [other for other in steps if other >= step]
        needed = step if step in newer else max(steps, default=None)
        if needed != step and newer != steps:
            needed = None
        for other in newer:
            until = step if other == needed else None
            self.catalog.set_aside(other, SUPERSEDED, until=until)
        return needed is not None

    def _free_space(self, error: OSError) -> None:
        """Undoes what a failed save has done, if nobody else may have written.

        A full disk is to have room for other things; if this fails too, the next save
        begins with it.
        """
        if isinstance(error, ResumableError):
            return
        try:
            # No renewal if it can be avoided: a full disk takes none.
            self.lease.check()
            self.catalog.clean()
        except OSError as another:
            _log.warning("what a failed save has written is still there: %s", another)
