"""One place of a run's checkpoints, and what a save does there, in what order.

tier = Tier(open_storage("gs://bucket/run"), keep=KeepAny(KeepNewest(3)))
tier.begin()                          # from here on nobody else may write there
info = tier.write(snapshot, draft)    # on the writer's thread
tier.end()
"""

from __future__ import annotations

from resumable_tf.checkpoint.bundle import write_bundle
from resumable_tf.checkpoint.catalog import Catalog
from resumable_tf.checkpoint.layout import SUPERSEDED
from resumable_tf.checkpoint.lease import Lease
from resumable_tf.checkpoint.manifest import CheckpointInfo, Manifest
from resumable_tf.checkpoint.retention import Candidate, KeepAny
from resumable_tf.state import Snapshot
from resumable_tf.storage import Storage


class Tier:
    """The checkpoints in one storage.

    Attributes:
        storage: Where they are.
        catalog: Which there are.
        lease: The right to write there.
    """

    def __init__(self, storage: Storage, *, keep: KeepAny) -> None:
        """Remembers its arguments; nothing is read or written.

        Args:
            storage: Where the checkpoints are.
            keep: What to keep after a save.
        """
        self.storage = storage
        self.catalog = Catalog(storage)
        self.lease = Lease(storage)
        self._keep = keep

    def begin(self) -> None:
        """Takes the lease and tidies up what a killed process has left.

        The lease is given back if that fails: what can't go on with the run does not
        keep others from it.

        Raises:
            RunInUseError: If another process saves to the run and is alive.
            UsageError: If the directory holds checkpoints of another program.
        """
        self.lease.take()
        try:
            self.catalog.clean()
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
            SaveError: If the bundle does not hold what the snapshot does.
        """
        self.lease.check()
        self.catalog.clean()
        for step in self.catalog.steps():
            if step >= draft.step:
                self.catalog.set_aside(step, SUPERSEDED)
        write_bundle(snapshot, self.storage, draft, before_commit=self.lease.verify)
        return self.catalog.info(draft.step)

    def tidy(self, step: int) -> None:
        """Deletes what is not kept, after `step` was committed.

        Raises:
            FencedOffError: If the lease was lost; nothing was deleted.
        """
        self.lease.check()
        committed = [Candidate(step) for step in self.catalog.steps()]
        self.catalog.delete(self._keep.to_delete(committed))
        self.catalog.check_state_file()
        self.catalog.drop_superseded(step)

    def end(self) -> None:
        """Gives the lease back.

        Raises:
            SaveError: If the storage failed; the lease then runs out by itself.
        """
        self.lease.release()
