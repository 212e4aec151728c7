"""The committed checkpoints of a run: which there are, and what becomes of them.

    catalog = Catalog(storage)
    catalog.steps()              # [1000, 2000], oldest first
    catalog.read(2000)           # the manifest
    catalog.delete([1000])

Commit marker first on the way out: TensorFlow's list of checkpoints, then the
manifest, then the data. So a kill at any point leaves either the whole checkpoint or
files that count for nothing, which `clean` removes. What a save replaces is moved out
of its way under a marker, by which `clean` brings it back if the save is not committed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from itertools import count

from resumable_tf.checkpoint.catalog_files import (
    is_lost,
    listed_steps,
    manifest_bytes,
    refuse_foreign,
    state_bytes,
)
from resumable_tf.checkpoint.layout import (
    CHECKPOINTS,
    PINS,
    QUARANTINE,
    STATE_FILE,
    SUPERSEDED,
    aside_folder,
    bundle_prefix,
    is_scratch,
    manifest_name,
    parse_replaced,
    pin_name,
    replaced_name,
    step_of_data,
    step_of_manifest,
    step_of_pin,
)
from resumable_tf.checkpoint.manifest import CheckpointInfo, Manifest
from resumable_tf.checkpoint.moves import finish_moves, move_into
from resumable_tf.checkpoint.retention import Candidate
from resumable_tf.checkpoint.state_file import format_state, is_sound, parse_steps
from resumable_tf.errors import (
    CheckpointCorruptError,
    NoCheckpointError,
)
from resumable_tf.storage import Storage

_log = logging.getLogger(__name__)


class Catalog:
    """The checkpoints in one run directory.

    Remembers times and metrics of the committed ones, whose manifests never change.
    """

    def __init__(self, storage: Storage) -> None:
        """Remembers where the run is.

        Args:
            storage: The run directory.
        """
        self._storage = storage
        self._known: dict[int, Candidate] = {}

    def steps(self) -> list[int]:
        """Returns the committed steps, oldest first."""
        found = map(step_of_manifest, self._storage.list(CHECKPOINTS))
        return sorted(step for step in found if step is not None)

    def is_empty(self) -> bool:
        """Returns whether there is none, nor one that `clean` would bring back."""
        return not any(
            step_of_manifest(name) is not None or parse_replaced(name) is not None
            for name in self._storage.list(CHECKPOINTS)
        )

    def pinned(self) -> set[int]:
        """Returns the steps that someone has pinned."""
        found = map(step_of_pin, self._storage.list(PINS))
        return {step for step in found if step is not None}

    def pin(self, step: int) -> None:
        """Keeps a checkpoint whatever the policies say, also in a run that trains.

        Raises:
            NoCheckpointError: If it is not committed, or was deleted at this moment.
        """
        self.require(step)
        self._storage.write_bytes(pin_name(step), b"")
        try:
            self.require(step)
        except NoCheckpointError:
            self.unpin(step)
            raise

    def unpin(self, step: int) -> None:
        """Leaves a checkpoint to the policies again."""
        self._storage.delete(pin_name(step))

    def require(self, step: int) -> None:
        """Checks that a step is committed.

        Raises:
            NoCheckpointError: If it is not; it names those that are.
        """
        steps = self.steps()
        if step not in steps:
            raise NoCheckpointError(
                f"{self._storage.locate(CHECKPOINTS)} has no checkpoint of step "
                f"{step}; it has {steps or 'none'}"
            )

    def read(self, step: int) -> Manifest:
        """Returns a checkpoint's manifest.

        Raises:
            CheckpointCorruptError: If it is damaged.
            CheckpointVersionError: If a newer version of this project wrote it.
        """
        name = manifest_name(step)
        manifest = Manifest.from_bytes(manifest_bytes(self._storage, step))
        if manifest.step != step:
            raise CheckpointCorruptError(f"{name} says it is step {manifest.step}")
        self._known[step] = Candidate(step, manifest.time, manifest.metrics)
        return manifest

    def committed(self, manifest: Manifest) -> CheckpointInfo:
        """Returns a checkpoint that was just committed, without reading it."""
        step = manifest.step
        self._known[step] = Candidate(step, manifest.time, manifest.metrics)
        path = self._storage.locate(bundle_prefix(step))
        return CheckpointInfo(step=step, path=path, manifest=manifest)

    def candidates(self) -> list[Candidate]:
        """Returns the committed checkpoints, with times and metrics, oldest first.

        One with a damaged manifest has none.
        """
        found = []
        for step in self.steps():
            if step not in self._known:
                try:
                    self.read(step)
                except CheckpointCorruptError as error:
                    _log.warning("checkpoint %d can't be compared: %s", step, error)
                    self._known[step] = Candidate(step)
                except FileNotFoundError:  # Another process trains here and deletes.
                    continue
            found.append(self._known[step])
        return found

    def digest(self, step: int) -> str:
        """Returns what tells this save of a step from all others: a digest.

        Raises:
            CheckpointCorruptError: If its manifest can't be read.
        """
        return hashlib.sha256(manifest_bytes(self._storage, step)).hexdigest()[:32]

    def digest_or_none(self, step: int) -> str | None:
        """Returns the digest; None if the manifest can't be read, or is just deleted.

        Who restores finds that out, and what counts is looked at again without it.
        """
        try:
            return self.digest(step)
        except OSError as error:
            known = (CheckpointCorruptError, FileNotFoundError)
            if not isinstance(error, known) and not is_lost(error):
                raise
            _log.warning("checkpoint %d can't be looked at: %s", step, error)
            return None

    def info(self, step: int) -> CheckpointInfo:
        """Returns a committed checkpoint.

        Raises:
            CheckpointCorruptError: If its manifest is damaged.
        """
        path = self._storage.locate(bundle_prefix(step))
        return CheckpointInfo(step=step, path=path, manifest=self.read(step))

    def info_or_none(self, step: int) -> CheckpointInfo | None:
        """Returns a checkpoint, None if its manifest is damaged or just deleted.

        Another process may train here, and delete what it does not keep.
        """
        try:
            return self.info(step)
        except (CheckpointCorruptError, FileNotFoundError) as error:
            _log.warning("checkpoint %d can't be listed: %s", step, error)
            return None

    def readable(self) -> list[CheckpointInfo]:
        """Returns all committed checkpoints with a sound manifest, oldest first."""
        found = map(self.info_or_none, self.steps())
        return [info for info in found if info is not None]

    def latest(self) -> CheckpointInfo | None:
        """Returns the newest committed checkpoint with a sound manifest, if any."""
        found = map(self.info_or_none, reversed(self.steps()))
        return next((info for info in found if info is not None), None)

    def delete(self, steps: Iterable[int]) -> None:
        """Deletes checkpoints for good.

        Args:
            steps: Committed steps.
        """
        doomed = list(steps)
        if not doomed:
            return
        self.write_state_file(without=doomed)
        for step in doomed:
            data = self._data_files(step)
            self._storage.delete(manifest_name(step))
            for name in data:
                self._storage.delete(name)

    def set_aside(self, step: int, directory: str, *, until: int | None = None) -> str:
        """Moves a checkpoint out of the way, as a whole; nothing is deleted.

        Args:
            step: A committed step, or one whose manifest is lost.
            directory: `QUARANTINE` or `SUPERSEDED`.
            until: It comes back unless this step is committed; None: it does not.

        Returns:
            The path or URL of the folder that it is in now.
        """
        taken = self._storage.list(directory)
        folders = (aside_folder(directory, step, number) for number in count(1))
        folder = next(
            one for one in folders if not any(n.startswith(f"{one}/") for n in taken)
        )
        if until is not None:
            self._storage.write_bytes(replaced_name(folder, until), b"")
        self.write_state_file(without=[step])
        names = self._data_files(step)
        if manifest_name(step) in self._storage.list(CHECKPOINTS):
            names = [manifest_name(step), *names]
        move_into(self._storage, folder, names)
        return self._storage.locate(folder)

    def drop_superseded(self, step: int | None) -> None:
        """Deletes the copies of `step` that a newer save has replaced; None: of all.

        What was to come back without `step` stays superseded; its marker goes.
        """
        prefix = f"{SUPERSEDED}/" if step is None else f"{SUPERSEDED}/ckpt-{step}."
        names = self._storage.list(SUPERSEDED)
        markers = {name: found[2] for name in names if (found := parse_replaced(name))}
        # Markers last: by them `clean` goes on with this after a kill.
        for name in sorted(names, key=lambda name: name in markers):
            if name.startswith(prefix) or (step and markers.get(name) == step):
                self._storage.delete(name)

    def quarantined(self) -> list[str]:
        """Returns the names of the files in quarantine."""
        return self._storage.list(QUARANTINE)

    def clean(self, *, keeps: int | None = None) -> None:
        """Finishes or undoes what a killed process has left unfinished.

        Args:
            keeps: A step whose files will be completed; None for none.

        Raises:
            UsageError: If the directory holds checkpoints of another program.
        """
        names = self._storage.list(CHECKPOINTS)
        if self._undo_replacements(names):
            names = self._storage.list(CHECKPOINTS)
        committed = self._committed(names)
        refuse_foreign(self._storage, names, committed)
        moved = finish_moves(self._storage, names, committed)
        moved |= self._save_lost(names, {keeps, *committed})
        for name in names:
            step = step_of_data(name)
            uncommitted = step not in {None, keeps, *committed}
            if name not in moved and (uncommitted or is_scratch(name)):
                _log.info("removing %s: its save was not finished", name)
                self._storage.delete(name)
        if keeps is None:
            self._storage.remove_partial_writes(CHECKPOINTS)

    def write_state_file(self, *, without: Iterable[int] = ()) -> None:
        """Brings TensorFlow's list of checkpoints up to date.

        Args:
            without: Committed steps that are about to go.
        """
        left = set(self.steps()) - set(without)
        self._known = {step: self._known[step] for step in left & set(self._known)}
        times = {}
        for step in sorted(left):
            try:
                time = (self._known.get(step) or self.read(step)).time
            except CheckpointCorruptError:
                continue  # It is found, and set aside, when it is to be restored.
            if time:  # Else its manifest was found damaged before.
                times[step] = time
        if times:
            self._storage.write_bytes(STATE_FILE, format_state(times))
        else:
            self._storage.delete(STATE_FILE)

    def check_state_file(self) -> None:
        """Rewrites TensorFlow's list if it is damaged or behind the manifests."""
        data = state_bytes(self._storage)
        if data and not is_sound(data):
            _log.warning("%s is damaged; writing it anew", STATE_FILE)
            data = b""
        if parse_steps(data) != self.steps():
            self.write_state_file()

    def _committed(self, names: list[str]) -> set[int | None]:
        """Returns the committed steps.

        Asks by name too: a listing that is behind must not make a checkpoint count as
        leftovers.
        """
        committed = {step_of_manifest(name) for name in names} - {None}
        unlisted = {step_of_data(name) for name in names} - {None, *committed}
        for step in unlisted:
            if step is not None and self._storage.exists(manifest_name(step)):
                committed.add(step)
        return committed

    def _data_files(self, step: int) -> list[str]:
        names = self._storage.list(CHECKPOINTS)
        return [name for name in names if step_of_data(name) == step]

    def _save_lost(self, names: list[str], known: set[int | None]) -> set[str]:
        """Moves the data of checkpoints whose manifest is lost into quarantine.

        TensorFlow's list is written after the manifest, and before it is deleted: no
        kill leaves a step in the list without its manifest.

        Returns:
            The names that were moved.
        """
        if STATE_FILE not in names:
            return set()
        listed = set(listed_steps(self._storage)) - known
        lost = {name for name in names if step_of_data(name) in listed}
        for step in sorted(listed.intersection(map(step_of_data, lost))):
            where = self.set_aside(step, QUARANTINE)
            _log.warning(
                "checkpoint %d has lost its manifest; moved to %s", step, where
            )
        return lost

    def _undo_replacements(self, names: list[str]) -> bool:
        """Brings back what a save was to replace and has not; drops the markers.

        Whatever of it is in place already was not moved, or is back from an earlier
        attempt: nothing new is written before all of it is out of the way.

        Returns:
            Whether anything was brought back.
        """
        is_undone = False
        for marker in names:
            if (parsed := parse_replaced(marker)) is None:
                continue
            folder, step, until = parsed
            # By name: a listing that is behind must not undo what is committed.
            if self._storage.exists(manifest_name(until)):
                self.drop_superseded(until)  # With the marker.
                continue
            commit = folder + manifest_name(step)[len(CHECKPOINTS) :]
            if commit in names:
                _log.warning("bringing back checkpoint %d, which was replaced", step)
                moved = [name for name in names if name.startswith(folder + "/")]
                for name in sorted(moved, key=lambda name: name == commit):
                    self._storage.move(name, CHECKPOINTS + name[len(folder) :])
                self.write_state_file()
                is_undone = True
            self._storage.delete(marker)
        return is_undone
