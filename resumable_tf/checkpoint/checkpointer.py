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
from types import TracebackType
from typing import Any, TypeVar

from resumable_tf.auditing.switch import active_recorder
from resumable_tf.checkpoint.draft import draft_manifest
from resumable_tf.checkpoint.due import make_due
from resumable_tf.checkpoint.lineage import BatchSizeChanges
from resumable_tf.checkpoint.manifest import CheckpointInfo, Manifest
from resumable_tf.checkpoint.options import SaveOptions
from resumable_tf.checkpoint.restoring import restore_newest, restore_step
from resumable_tf.checkpoint.retention import KeepAny, KeepNewest
from resumable_tf.checkpoint.run_config import fingerprint_of, open_run
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.checkpoint.tiers import make_tiers
from resumable_tf.checkpoint.writer import SaveHandle, Writer, attach_failure
from resumable_tf.errors import NoCheckpointError, SaveError, UsageError
from resumable_tf.state import Snapshot, TrainState
from resumable_tf.storage import Storage, open_storage

_Info = TypeVar("_Info", CheckpointInfo, CheckpointInfo | None)


class Checkpointer:
    """The checkpoints of one run; used from one thread.

    Attributes:
        storage: The run directory.
        committed_step: Step of the newest checkpoint that this object restored or
            committed, None before; asks no storage.
    """

    # Set by the writer's thread too; a plain assignment, read by displays only.
    committed_step: int | None = None
    _is_restored = False
    _is_closed = False

    def __init__(
        self,
        run_dir: str | Storage,
        *,
        every_steps: int | None = None,
        every_secs: float | None = None,
        keep_last: int | None = 3,
        config: Mapping[str, Any] | None = None,
        options: SaveOptions | None = None,
    ) -> None:
        """Remembers its arguments; nothing is read or written.

        Args:
            run_dir: A path, a URL such as "gs://bucket/run", or a storage.
            every_steps: Save at each multiple of this; None does not.
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
        if keep_last is not None and keep_last < 1:
            raise ValueError(f"keep_last must be 1 or more, not {keep_last}")
        newest = () if keep_last is None else (KeepNewest(keep_last),)
        self.storage = open_storage(run_dir) if isinstance(run_dir, str) else run_dir
        self._options = options
        self._config = None if config is None else dict(config)
        self._clock = options.clock
        durable = Tier(self.storage, keep=KeepAny(*newest, *options.keep))
        self._tiers = make_tiers(durable, options)
        self._changes = BatchSizeChanges(self.storage, self._config, self._clock)
        self._writer = Writer(is_nice=options.asynchronous)
        self._due = make_due(options, every_steps=every_steps, every_secs=every_secs)

    def restore_or_initialize(
        self, state: TrainState, *, allow_batch_size_change: bool = False
    ) -> CheckpointInfo | None:
        """Continues the run where it was saved last, or begins it.

        Sets `state.step` and `state.extra`. The newest checkpoint whose files verify
        in any tier counts; damaged ones are moved to `checkpoints/quarantine`, with the
        reason in the log. From here to `close` no other process can save to the run.

        Args:
            state: The live objects; not touched unless all of them fit.
            allow_batch_size_change: Whether to go on with another global batch size
                than before; that is recorded in the lineage of run.json, and later
                starts need not ask for it again. No row is skipped or read twice.

        Returns:
            What was restored, None if the run begins now.

        Raises:
            CheckpointCorruptError: If there were checkpoints and none verifies.
            CheckpointMismatchError: If the live objects are others than the saved.
            ConfigMismatchError: If the run was begun with other settings.
            DataMismatchError: If the data is not the saved one.
            FastTierMismatchError: If the fast tier is another run's.
            RunInUseError: If another process saves to the run and is alive.
        """
        self._begin(allow_batch_size_change)
        self._tiers.begin()
        try:
            may_change = self._changes.may_change
            info = restore_newest(
                self._tiers, state, quarantines=True, may_change=may_change
            )
            self._restored(state, info)
        except BaseException:
            self._tiers.end()
            raise
        if info is not None:
            self._tiers.resume_copy(info)
        self._changes.record(step=state.step)
        return info

    def restore(
        self,
        state: TrainState,
        step: int | None = None,
        *,
        allow_batch_size_change: bool = False,
    ) -> CheckpointInfo:
        """Restores a checkpoint that must be there; only reads the run directory.

        So it may be used beside a training that is under way, to evaluate or export.
        If training goes on from one that is not the newest, the next save moves the
        newer ones out of the way, to `checkpoints/superseded`.

        Args:
            state: The live objects; not touched unless all of them fit.
            step: Which one; None takes the newest that verifies.
            allow_batch_size_change: As for `restore_or_initialize`; recorded by the
                next save.

        Returns:
            What was restored.

        Raises:
            NoCheckpointError: If it is not there.
            CheckpointCorruptError: If it is damaged.
            CheckpointMismatchError: If the live objects are others than the saved.
            ConfigMismatchError: If the run was begun with other settings.
            DataMismatchError: If the data is not the saved one.
            FastTierMismatchError: If the fast tier is another run's.
        """
        self._begin(allow_batch_size_change)
        tiers, may_change = self._tiers, self._changes.may_change
        if step is not None:
            found = restore_step(tiers, state, step=step, may_change=may_change)
        else:
            newest = restore_newest(
                tiers, state, quarantines=False, may_change=may_change
            )
            if newest is None:
                raise NoCheckpointError(f"{self.storage.root} has no checkpoint")
            found = newest
        return self._restored(state, found)

    def should_save(self, step: int) -> bool:
        """Returns whether a checkpoint is due after `step` completed steps."""
        return self._due.in_fast(step) or self._is_durable_due(step)

    def next_save_step(self, step: int) -> int | None:
        """Returns the next step that `every_steps` makes due, None without it.

        A loop that runs several steps at once must not run past it.
        """
        return self._due.next_save_step(step)

    def maybe_save(
        self, state: TrainState, *, metrics: Mapping[str, float] | None = None
    ) -> SaveHandle | None:
        """Saves if a checkpoint is due; else only raises what an earlier save left.

        With a fast tier it is saved there, and copied to the run directory if it is
        due there. That stays due while the copy before is under way.

        Args:
            state: The live objects, between two steps.
            metrics: Finite numbers to keep in the manifest.

        Returns:
            The save's handle, None if none was due.

        Raises:
            SaveError: If the save before has failed.
        """
        self.raise_failure()
        self._note_step(state)
        in_durable = self._is_durable_due(state.step)
        if not in_durable and not self._due.in_fast(state.step):
            return None
        self._check_may_save()
        return self._save(state, metrics=metrics, in_durable=in_durable)

    def save(
        self, state: TrainState, *, metrics: Mapping[str, float] | None = None
    ) -> SaveHandle:
        """Takes a snapshot and begins to write it; waits for the save before.

        A checkpoint of the same step is replaced.

        Args:
            state: The live objects, between two steps.
            metrics: Finite numbers to keep in the manifest.

        Returns:
            The save's handle; `handle.result()` waits for the commit. With a fast tier
            it is the commit there; `wait` waits for the one in the run directory too.

        Raises:
            SaveError: If the save before has failed; or, without `asynchronous`,
                this one.
            RunInUseError: If another process saves to the run and is alive.
            StateError: If something that changes can't be saved.
            TypeError: If `state.extra` or a metric can't be kept in JSON.
            UsageError: If the run has checkpoints and none was restored.
        """
        self._check_may_save()
        self._note_step(state)
        return self._save(state, metrics=metrics, in_durable=True)

    def raise_failure(self) -> None:
        """Raises what an earlier save left, without waiting for one in flight.

        Raises:
            SaveError: If the last save has failed and nobody has heard of it.
        """
        self._writer.raise_failure()
        self._tiers.raise_failure()

    def wait(self) -> None:
        """Waits for the save in flight, in all tiers.

        Raises:
            SaveError: If it has failed.
        """
        try:
            self._writer.wait()
        finally:
            self._tiers.wait()

    def close(self) -> None:
        """Waits for the save in flight; nothing can be saved afterwards.

        Raises:
            SaveError: If it has failed, or the run could not be given back.
        """
        self._is_closed = True
        try:
            self.wait()
        finally:
            self._tiers.end()

    def is_durable(self, step: int) -> bool:
        """Returns whether the run directory has a checkpoint of `step`, or a newer."""
        latest = self._tiers.durable.catalog.latest()
        return latest is not None and latest.step >= step

    def checkpoints(self) -> list[CheckpointInfo]:
        """Returns the committed checkpoints, oldest first.

        One that is in both tiers is listed once, as that of the run directory.
        """
        return self._tiers.checkpoints()

    def latest(self) -> CheckpointInfo | None:
        """Returns the newest committed checkpoint of any tier, None without any."""
        return self._tiers.latest()

    def __enter__(self) -> Checkpointer:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes; a failed save never hides an error of the block itself.

        Raises:
            SaveError: If the save in flight has failed and the block has not.
        """
        try:
            self.close()
        except SaveError as save_error:
            if error is None:
                raise
            attach_failure(error, save_error)

    def _begin(self, allow_batch_size_change: bool) -> None:
        """Waits for the save in flight and compares the settings."""
        self.wait()
        recorder = active_recorder()
        if recorder is not None:
            recorder.check_run_dir(self.storage.root)
        self._changes.begin(is_allowed=allow_batch_size_change)

    def _note_step(self, state: TrainState) -> None:
        """Lets an audit, if one is under way, have the state before it is saved."""
        recorder = active_recorder()
        if recorder is not None:
            recorder.end_step(state, wait=self.wait)

    def _restored(self, state: TrainState, info: _Info) -> _Info:
        self._is_restored = True
        self.committed_step = None if info is None else info.step
        self._due.restored(state.step, durable=self._tiers.restored(state.step))
        recorder = active_recorder()
        if recorder is not None:
            recorder.restored(state, is_new=info is None)
        return info

    def _check_may_save(self) -> None:
        """Refuses a save that would not continue this run.

        Raises:
            UsageError: If this checkpointer is closed, or has not looked at the
                checkpoints that are there.
        """
        if self._is_closed:
            raise UsageError("this Checkpointer is closed; nothing can be saved")
        self._tiers.take()
        if self._is_restored:
            return
        if self._config is not None:
            open_run(self._config, self.storage)
        places = self._tiers.candidates()
        if places:
            raise UsageError(
                f"{self.storage.root} has a checkpoint of step {places[0].step}; call "
                "restore_or_initialize(state) before the first save, or start a new "
                "run directory"
            )
        self._is_restored = True

    def _is_durable_due(self, step: int) -> bool:
        """Returns whether a save is due in the run directory, and can begin."""
        return self._due.in_durable(step) and not self._tiers.is_copying()

    def _save(
        self,
        state: TrainState,
        *,
        metrics: Mapping[str, float] | None,
        in_durable: bool,
    ) -> SaveHandle:
        """Takes a snapshot and begins to write it, to the tiers that are due."""
        self._changes.record(step=self._due.last_step)
        # Before the snapshot: at most one is in memory.
        self._writer.wait()
        if in_durable:
            self._tiers.wait()
        now = self._clock()
        fingerprint = None if self._config is None else fingerprint_of(self._config)
        draft = draft_manifest(state, metrics=metrics, config=fingerprint, time=now)
        snapshot = state.capture()
        handle = self._writer.submit(
            state.step, lambda: self._write(snapshot, draft, in_durable=in_durable)
        )
        self._due.saved(state.step, time=now, in_durable=in_durable)
        if not self._options.asynchronous:
            self.wait()
        return handle

    def _write(
        self, snapshot: Snapshot, draft: Manifest, *, in_durable: bool
    ) -> CheckpointInfo:
        """Writes, commits and deletes what is not kept; on the writer's thread."""
        try:
            info = self._tiers.write(snapshot, draft)
        finally:
            snapshot.release()
        self.committed_step = draft.step
        self._tiers.tidy(draft.step)
        if in_durable:
            self._tiers.start_copy(draft.step)
        return info
