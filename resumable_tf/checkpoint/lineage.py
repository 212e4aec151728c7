"""A run that goes on with another batch size: only when asked for, and on record.

    changes = BatchSizeChanges(storage, config, clock)
    changes.begin(is_allowed=True)          # compares the settings with run.json
    changes.may_change(41000, 256, 128)     # asked while a checkpoint is compared
    changes.record(step=41000)              # run.json: lineage.changes

Whoever reads run.json sees which steps were trained with which batch size. A change
that is on record needs no flag at a later start, also if nothing was saved after it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resumable_tf.checkpoint.catalog import Catalog
from resumable_tf.checkpoint.manifest import CheckpointInfo
from resumable_tf.checkpoint.run_config import (
    BATCH_SIZE_KEYS,
    CHANGES,
    RunConfig,
    fingerprint_of,
    open_run,
    read_run,
    write_run,
)
from resumable_tf.errors import ConfigMismatchError
from resumable_tf.storage import Storage

_log = logging.getLogger(__name__)
MayChange = Callable[[int, int, int], bool]
"""Tells whether a step may be continued: step, batch size before, and from now on."""


@dataclasses.dataclass(frozen=True)
class BatchSizeChange:
    """One change of the global batch size.

    Attributes:
        parent_step: Completed steps before it.
        before: Rows of each step until then.
        after: Rows of each step from then on.
        time: Seconds since 1970 at the first start with it.
    """

    parent_step: int
    before: int
    after: int
    time: float

    def to_json(self) -> dict[str, Any]:
        """Returns the entry in run.json."""
        changed = {"batch_size": {"from": self.before, "to": self.after}}
        return {"parent_step": self.parent_step, "time": self.time, "changed": changed}


class BatchSizeChanges:
    """What one start changes of a run's batch size."""

    def __init__(
        self,
        storage: Storage,
        config: Mapping[str, Any] | None,
        clock: Callable[[], float],
    ) -> None:
        """Takes the run; reads nothing.

        Args:
            storage: The run directory.
            config: The settings of this start, None without.
            clock: Seconds since 1970.
        """
        self._storage, self._config, self._clock = storage, config, clock
        self._is_allowed = False
        # Before and from now on, of a change that run.json may not have yet.
        self._sizes: tuple[int, int] | None = None

    def begin(self, *, is_allowed: bool) -> None:
        """Compares the settings of this start with those of run.json.

        Args:
            is_allowed: Whether the batch size may be another one.

        Raises:
            ConfigMismatchError: If other settings differ, or it may not; or if
                run.json is lost or another run's, and the checkpoints are of other
                settings.
        """
        self._is_allowed, self._sizes = is_allowed, None
        if self._config is None:
            return
        newest = Catalog(self._storage).latest()
        if newest is not None and newest.manifest.config is None:
            newest = None  # The run was begun without settings.
        if newest is not None and read_run(self._storage) is None:
            _check_origin(newest, self._config, [])
            _log.warning(
                "run.json was lost; it is written anew, without what it said of "
                "changes of the batch size"
            )
        run = open_run(self._config, self._storage, allows_batch_size_change=is_allowed)
        if newest is not None:
            _check_origin(newest, run.config, run.lineage.get(CHANGES, ()))
        self._sizes = _changed_setting(run, self._config)

    def may_change(self, step: int, before: int, after: int) -> bool:
        """Returns whether a checkpoint of another batch size may be continued."""
        change = BatchSizeChange(step, before, after, self._clock())
        may = self._is_allowed or _is_recorded(read_run(self._storage), change)
        if may:
            self._sizes = before, after
        return may

    def record(self, *, step: int) -> None:
        """Adds the change to run.json, together with the settings of this start.

        Args:
            step: Completed steps when it was made.
        """
        sizes = self._sizes
        if sizes is None:
            return
        change = BatchSizeChange(step, *sizes, time=self._clock())
        run = read_run(self._storage)
        lineage = dict(run.lineage) if run is not None else {}
        if not _is_recorded(run, change):
            lineage[CHANGES] = [*lineage.get(CHANGES, ()), change.to_json()]
        known = {} if run is None else run.config
        settings = dict(known if self._config is None else self._config)
        write_run(RunConfig(settings, fingerprint_of(settings), lineage), self._storage)
        self._sizes = None


def _check_origin(
    newest: CheckpointInfo, config: Mapping[str, Any], changes: Sequence[Any]
) -> None:
    """Compares the settings that a checkpoint was saved with.

    A checkpoint from before a change of the batch size is one of the same run.

    Raises:
        ConfigMismatchError: If they are others.
    """
    saved, now = newest.manifest.config, fingerprint_of(config)
    sizes = [change["changed"]["batch_size"]["from"] for change in changes]
    before = [
        {**config, key: size}
        for key in BATCH_SIZE_KEYS
        for size in sizes
        if key in config
    ]
    if saved is not None and saved not in {now, *map(fingerprint_of, before)}:
        raise ConfigMismatchError(
            f"checkpoint {newest.step} was saved with other settings than run.json "
            "has now, or with others than this start has if run.json is lost.\n"
            f"  checkpoint: settings of fingerprint {saved[:12]}...\n"
            f"  now:        settings of fingerprint {now[:12]}...\n"
            "Put this run's own run.json back, use the settings that it was begun "
            "with, or start a new run directory.",
            saved={"fingerprint": saved},
            now={"fingerprint": now},
        )


def _is_recorded(run: RunConfig | None, change: BatchSizeChange) -> bool:
    """Returns whether a run's newest change is this one, at whatever time."""
    changes = run.lineage.get(CHANGES) if run is not None else None
    if not changes:
        return False
    known, wanted = dict(changes[-1]), change.to_json()
    return {**known, "time": None} == {**wanted, "time": None}


def _changed_setting(
    run: RunConfig, config: Mapping[str, Any]
) -> tuple[int, int] | None:
    """Returns the batch size of run.json and that of this start, if they differ."""
    for key in BATCH_SIZE_KEYS:
        saved, now = run.config.get(key), config.get(key)
        if type(saved) is int and type(now) is int and saved != now:
            return saved, now
    return None
