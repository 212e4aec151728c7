"""Saves and restores a training state; the face of this package.

    with Checkpointer("gs://bucket/run", every_steps=1000) as checkpointer:
        checkpointer.restore_or_initialize(state)
        for batch in dataset.from_step(state.step):
            train_step(batch)
            state.step += 1
            checkpointer.maybe_save(state)

Training waits for one snapshot, never for storage. A save that fails raises at the
next call, and at the latest when the `with` block ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from resumable_tf.checkpoint import audited
from resumable_tf.checkpoint.announcement import announce_resume
from resumable_tf.checkpoint.draft import draft_manifest
from resumable_tf.checkpoint.due import Due
from resumable_tf.checkpoint.failures import Failures, attach
from resumable_tf.checkpoint.lineage import BatchSizeChanges
from resumable_tf.checkpoint.manifest import CheckpointInfo
from resumable_tf.checkpoint.options import SaveOptions
from resumable_tf.checkpoint.restoring import restore_existing, restore_newest
from resumable_tf.checkpoint.retention import keep_all_of
from resumable_tf.checkpoint.run_config import open_run
from resumable_tf.checkpoint.saving import SaveNow, Saving
from resumable_tf.checkpoint.schedule import save_when
from resumable_tf.checkpoint.storage_errors import tells_storage_errors
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.checkpoint.tiers import make_tiers
from resumable_tf.checkpoint.writer import SaveHandle
from resumable_tf.errors import SaveError, UsageError
from resumable_tf.state import TrainState
from resumable_tf.storage import PathLike, Storage, storage_of


class Checkpointer:
    """The checkpoints of one run; used from one thread.

    Attributes:
        storage: The run directory.
        failures: The failed saves since the last one that succeeded.
    """

    _is_restored = _is_closed = False

    def __init__(
        self,
        run_dir: PathLike | Storage,
        *,
        every_steps: int | Literal["auto"] | None = None,
        every_secs: float | None = None,
        keep_last: int | None = 3,
        config: Mapping[str, Any] | None = None,
        options: SaveOptions | None = None,
    ) -> None:
        """Remembers its arguments; nothing is read or written.

        Args:
            run_dir: A path, a URL such as "gs://bucket/run", or a storage.
            every_steps: Save at each multiple of this; "auto" chooses the interval
                from what a save costs (`AutoInterval`); None does not.
            every_secs: Save when so many seconds have passed; None does not.
            keep_last: Newest checkpoints to keep; None keeps what `options.keep` says,
                and all if it says nothing.
            config: The settings results depend on; they go into run.json, and a
                resume with others is refused. None leaves run.json alone.
            options: Everything else about saving; None takes the defaults.

        Raises:
            ValueError: If a period or number is not positive.
        """
        options = options or SaveOptions()
        policies = save_when(options, every_steps=every_steps, every_secs=every_secs)
        self._due = Due(policies, options)
        self.failures = Failures(may_continue=options.on_storage_error == "continue")
        self.storage = storage_of(run_dir)
        self._options = options
        self._config = None if config is None else dict(config)
        durable = Tier(self.storage, keep=keep_all_of(options.keep, keep_last))
        self._tiers = make_tiers(durable, options, self.failures.succeeded)
        self._changes = BatchSizeChanges(self.storage, self._config, options.clock)
        self._saving = Saving(self._tiers, self._due, self.failures, options)

    @tells_storage_errors
    def restore_or_initialize(
        self, state: TrainState, *, allow_batch_size_change: bool = False
    ) -> CheckpointInfo | None:
        """Continues the run where it was saved last, or begins it.

        Sets `state.step` and `state.extra`. The newest checkpoint whose files verify
        in any tier counts; damaged ones are moved to `checkpoints/quarantine`, with the
        reason in the log. From here to `close` no other process can save to the run.

        Args:
            state: The live objects; not touched unless all of them fit.
            allow_batch_size_change: Whether to go on with another global batch size;
                run.json records it for later starts. No row is skipped or read twice.

        Returns:
            What was restored, None if the run begins now.

        Raises:
            CheckpointCorruptError: If there were checkpoints and none verifies.
            CheckpointMismatchError: If the live objects are others than the saved.
            ConfigMismatchError: If the run was begun with other settings.
            DataMismatchError: If the data is not the saved one.
            FastTierMismatchError: If the fast tier is another run's.
            RunInUseError: If another process saves to the run and is alive.
            StorageError: If the storage fails, or has links where none may be.
        """
        began = self._options.elapsed()
        self._begin(allow_batch_size_change)
        self._tiers.begin()
        try:
            may = self._changes.may_change
            info = restore_newest(self._tiers, state, quarantines=True, may_change=may)
            self._restored(state, info)
        except BaseException:
            self._tiers.end()
            raise
        if info is not None:
            self._saving.resume_copy(info)
        self._changes.record(step=state.step)
        if info is not None and self._options.verbose:
            secs = self._options.elapsed() - began
            announce_resume(info.step, self.storage.root, took_secs=secs)
        return info

    @tells_storage_errors
    def restore(
        self,
        state: TrainState,
        step: int | None = None,
        *,
        allow_batch_size_change: bool = False,
    ) -> CheckpointInfo:
        """Restores a checkpoint that must be there; only reads the run directory.

        So it may be used beside a training that is under way. If training goes on from
        it, the next save moves newer ones to `checkpoints/superseded`.

        Args:
            state: The live objects; not touched unless all of them fit.
            step: Which one; None takes the newest that verifies.
            allow_batch_size_change: As above; recorded by the next save.

        Returns:
            What was restored.

        Raises:
            NoCheckpointError: If it is not there; besides, what
                `restore_or_initialize` raises, but for RunInUseError.
        """
        self._begin(allow_batch_size_change)
        may = self._changes.may_change
        found = restore_existing(self._tiers, state, step=step, may_change=may)
        self._restored(state, found)
        return found

    @property
    def committed_step(self) -> int | None:
        """Step of the newest checkpoint restored or committed; asks no storage."""
        return self._saving.committed_step

    @property
    def durable_step(self) -> int | None:
        """`committed_step`, but in the run directory itself; asks no storage."""
        return self._saving.durable_step

    @property
    def save_secs(self) -> dict[str, float | None]:
        """How long the last save took to "durable", and to "fast" if there is one."""
        return self._tiers.save_secs()

    @property
    def num_skipped(self) -> int:
        """Saves that were left out, since the one before was not done."""
        return self._due.num_skipped

    def should_save(
        self,
        step: int,
        *,
        epoch: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Returns whether to save after `step` completed steps.

        An automatic interval measures steps by these calls.

        Args:
            step: Completed steps.
            epoch: The epoch of the next batch, None if unknown.
            metrics: What was measured at this step.
        """
        return self._saving.is_due(step, epoch=epoch, metrics=metrics)

    def next_save_step(self, step: int) -> int | None:
        """Returns the next step known to be due; no call of several may run past it."""
        return self._due.next_save_step(step)

    def maybe_save(
        self, state: TrainState, *, metrics: Mapping[str, float] | None = None
    ) -> SaveHandle | None:
        """Saves if a checkpoint is due; else only raises what an earlier save left.

        Args:
            state: The live objects, between two steps.
            metrics: Finite numbers for the manifest and policies that look at them.

        Returns:
            The save's handle, None if none was due, or none could be begun.

        Raises:
            SaveError: As `raise_failure`.
            UsageError: If the loop does not count its steps.
        """
        self.raise_failure()
        state.check_counted()
        audited.note_step(state, wait=self._saving.wait)
        epoch, _ = state.position()
        if not self.should_save(state.step, epoch=epoch, metrics=metrics):
            self._saving.pass_over(state, metrics)
            return None
        return self.save_due(state, metrics=metrics)

    def save_due(
        self, state: TrainState, *, metrics: Mapping[str, float] | None = None
    ) -> SaveHandle | None:
        """Saves as `save` does, but goes on where `on_storage_error` says so.

        With a fast tier, what `should_save` has found due only there goes only there.

        Args:
            state: The live objects, between two steps.
            metrics: Finite numbers to keep in the manifest.

        Returns:
            The save's handle, None if it could not be begun, which is counted.
        """
        in_durable = self._due.take()
        try:
            return self._save(state, metrics=metrics, in_durable=in_durable)
        except OSError as error:
            self.failures.take(error, step=state.step)
            self._due.put_off(state, in_durable=in_durable)
            return None

    def put_off(self, state: TrainState) -> None:
        """Leaves out what is due at this step, or was before."""
        self._due.put_off(state)

    def save(
        self,
        state: TrainState,
        *,
        metrics: Mapping[str, float] | None = None,
        in_durable: bool = True,
    ) -> SaveHandle:
        """Takes a snapshot and begins to write it; waits for the save before.

        A checkpoint of the same step is replaced.

        Args:
            state: The live objects, between two steps.
            metrics: Finite numbers to keep in the manifest.
            in_durable: Whether it goes to the run directory too if there is a fast
                tier; without one it always does.

        Returns:
            The save's handle; `handle.result()` waits for the commit, with a fast tier
            the one there.

        Raises:
            SaveError: If the save before has failed, and `on_storage_error` says to
                stop; or, without `asynchronous`, this one.
            RunInUseError: If another process saves to the run and is alive.
            StateError: If something that changes can't be saved.
            TypeError: If `state.extra` or a metric can't be kept in JSON.
            UsageError: If the run has checkpoints and none was restored.
        """
        self._due.take()
        return self._save(state, metrics=metrics, in_durable=in_durable)

    def copy_fast(self, step: int) -> None:
        """Begins to copy a fast checkpoint to the run directory."""
        self._tiers.copies.start(step)

    def raise_failure(self) -> None:
        """Raises what an earlier save left, without waiting for one in flight.

        Raises:
            SaveError: If nobody has heard of it, and `on_storage_error` says to stop.
        """
        self._saving.raise_failure()

    def wait(self, *, for_due: bool = True, for_copy: bool = True) -> None:
        """Waits for the save in flight, and makes what was due and put off.

        Args:
            for_due: Whether to make that.
            for_copy: Whether to care for the run directory too, with a fast tier.

        Raises:
            SaveError: If it has failed, and `on_storage_error` says to stop.
        """
        self._saving.wait(for_copy=for_copy)
        if for_due and for_copy:
            self._saving.make_up(self._save)

    def close(self) -> None:
        """Does as `wait` does; nothing can be saved afterwards.

        Raises:
            SaveError: If it has failed, if the last save before has failed and training
                went on over it, or if the run could not be given back.
        """
        self._end(self._save)

    def checkpoints(self) -> list[CheckpointInfo]:
        """Returns the committed checkpoints of all tiers, each once, oldest first."""
        return self._tiers.checkpoints()

    def latest(self) -> CheckpointInfo | None:
        """Returns the newest committed checkpoint of any tier, None without any."""
        return self._tiers.latest()

    def __enter__(self) -> Checkpointer:
        """Returns itself."""
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Closes; a failed save never hides an error of the block itself.

        Raises:
            SaveError: If the save in flight has failed and the block has not.
        """
        try:
            # What has failed may have been in the middle of a step.
            self._end(self._save if error is None else None)
        except SaveError as save_error:
            if error is None:
                raise
            attach(error, save_error)

    def _end(self, save: SaveNow | None) -> None:
        try:
            self._saving.end(save)
        finally:
            self._is_closed = True
            self._tiers.end()

    def _begin(self, allow_batch_size_change: bool) -> None:
        """Waits for the save in flight and compares the settings."""
        self._saving.wait()
        audited.check_run_dir(self.storage.root)
        self._changes.begin(is_allowed=allow_batch_size_change)

    def _restored(self, state: TrainState, info: CheckpointInfo | None) -> None:
        self._is_restored = True
        state.begin()
        self._saving.restored(state, info)
        audited.note_restored(state, is_new=info is None)

    def _check_may_save(self) -> None:
        """Refuses a save that would not continue this run.

        Raises:
            UsageError: If this checkpointer is closed.
        """
        if self._is_closed:
            raise UsageError("this Checkpointer is closed; nothing can be saved")
        self._tiers.take()
        if self._is_restored:
            return
        if self._config is not None:
            open_run(self._config, self.storage)
        self._tiers.refuse_checkpoints()
        self._is_restored = True

    def _save(
        self,
        state: TrainState,
        *,
        metrics: Mapping[str, float] | None,
        in_durable: bool,
    ) -> SaveHandle:
        """Takes a snapshot and begins to write it, to the tiers that are due."""
        stopped_secs = self._options.elapsed()
        self._check_may_save()
        audited.note_step(state, wait=self._saving.wait)
        self._changes.record(step=self._due.last_step)
        self._saving.make_way(state, in_durable=in_durable)
        now = self._options.clock()
        draft = draft_manifest(state, metrics=metrics, config=self._config, time=now)
        return self._saving.begin(
            state, draft, in_durable=in_durable, stopped_secs=stopped_secs
        )
