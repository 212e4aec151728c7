"""run.json: the settings that a run was begun with.

    open_run(config={"preset": "tiny", "seed": 1}, storage=storage)

The first start writes it; every later start must have the same settings, since a
resume with others would not continue the same run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from resumable_tf.checkpoint.layout import RUN_FILE
from resumable_tf.checkpoint.manifest import normalize_json
from resumable_tf.checkpoint.sealed_json import SealedFile
from resumable_tf.errors import CheckpointCorruptError, ConfigMismatchError
from resumable_tf.storage import Storage
from resumable_tf.storage.schema import (
    SHA256,
    STEP,
    TIME,
    Array,
    Fields,
    Free,
    Integer,
    Kind,
    Table,
)
from resumable_tf.storage.strict_json import canonical_json

FORMAT_VERSION = 1
"""Version of run.json."""

MAX_BYTES = 4 * 2**20
_SIZE = Integer(1)
_CHANGE: dict[str, Kind] = {
    "parent_step": STEP,
    "time": TIME,
    "changed": Fields({"batch_size": Fields({"from": _SIZE, "to": _SIZE})}),
}
_FILE = SealedFile(
    "run.json",
    FORMAT_VERSION,
    Fields({"config": Table(Free()), "fingerprint": SHA256, "lineage": Table(Free())}),
    MAX_BYTES,
)
CHANGES = "changes"
"""Key of the list of changes of the batch size in a lineage."""

BATCH_SIZE_KEYS = ("batch_size", "global_batch_size")
"""Settings that a start may change when it is asked to."""

CHANGE_ADVICE = (
    "To go on with another batch size from here, on record in run.json, add "
    "--allow-batch-size-change (allow_batch_size_change=True)."
)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A run's settings.

    Attributes:
        config: The settings, JSON values.
        fingerprint: Digest of them.
        lineage: Where the run comes from: parent run and step; `changes`, what was
            changed on the way (see `lineage.py`). Empty for a run from scratch.
    """

    config: Mapping[str, Any]
    fingerprint: str
    lineage: Mapping[str, Any]


def fingerprint_of(config: Mapping[str, Any]) -> str:
    """Returns a digest that is equal for equal settings, in whatever order.

    Raises:
        TypeError: If a setting is no JSON value.
    """
    # As it will be read back: JSON orders the text of keys that are numbers.
    settings = normalize_json(dict(config), what="config")
    return hashlib.sha256(canonical_json(settings)).hexdigest()


def open_run(
    config: Mapping[str, Any],
    storage: Storage,
    *,
    lineage: Mapping[str, Any] | None = None,
    allows_batch_size_change: bool = False,
) -> RunConfig:
    """Begins a run with these settings, or checks that it was begun with them.

    Args:
        config: The settings that results depend on.
        storage: The run directory.
        lineage: For a run that continues another one; used when this one begins.
        allows_batch_size_change: Whether the batch size may be another one; it is
            not written.

    Returns:
        What run.json says now.

    Raises:
        ConfigMismatchError: If the run was begun with other settings.
        CheckpointCorruptError: If run.json can't be read.
        TypeError: If a setting is no JSON value.
    """
    settings = normalize_json(dict(config), what="config")
    run = RunConfig(
        config=settings,
        fingerprint=fingerprint_of(settings),
        lineage=normalize_json(dict(lineage or {}), what="lineage"),
    )
    found = read_run(storage)
    if found is None:
        try:
            storage.create(RUN_FILE, _to_bytes(run))
        except FileExistsError:
            found = read_run(storage)  # Another process was faster.
    if found is None:
        return run
    allowed = BATCH_SIZE_KEYS if allows_batch_size_change else ()
    _check(found, run, storage.locate(RUN_FILE), allowed=allowed)
    return found


def read_run(storage: Storage) -> RunConfig | None:
    """Returns a run's settings, None if it has not begun.

    Args:
        storage: The run directory.

    Raises:
        CheckpointCorruptError: If run.json can't be read.
        CheckpointVersionError: If a newer version of this project wrote it.
    """
    fields = _FILE.read(storage, RUN_FILE)
    if fields is None:
        return None
    try:
        _check_sense(fields)
    except ValueError as error:
        raise CheckpointCorruptError(
            f"{storage.locate(RUN_FILE)} was changed: {error}; restore the file, or "
            "start a new run directory"
        ) from error
    return RunConfig(**fields)


def write_run(run: RunConfig, storage: Storage) -> None:
    """Replaces run.json, in one piece."""
    storage.write_bytes(RUN_FILE, _to_bytes(run))


def _to_bytes(run: RunConfig) -> bytes:
    fields = dataclasses.asdict(run)
    _check_sense(fields)
    return _FILE.to_bytes(fields)


def _check_sense(fields: Mapping[str, Any]) -> None:
    """Checks what the seal does not tell, of what is used here.

    Raises:
        ValueError: If the fingerprint is another's, or a change is none.
    """
    if fields["fingerprint"] != fingerprint_of(fields["config"]):
        raise ValueError("its fingerprint is not that of its config")
    changes = fields["lineage"].get(CHANGES, [])
    Array(Fields(_CHANGE)).check(changes, f"lineage.{CHANGES}")


def _check(
    found: RunConfig, now: RunConfig, where: str, *, allowed: Sequence[str]
) -> None:
    """Compares settings.

    Raises:
        ConfigMismatchError: If they differ, with both values and the flags to use.
    """
    saved, live = _flatten(found.config), _flatten(now.config)
    differing = sorted(
        key
        for key in {**saved, **live}
        if key not in saved or key not in live or saved[key] != live[key]
        if not (key in allowed and key in saved and key in live)
    )
    if not differing:
        return
    lines = [f"{where} was begun with other settings."]
    for key in differing:
        lines.append(f"  {key}: run.json {_text(saved, key)}, now {_text(live, key)}")
    flags = [_flag(key, saved[key]) for key in differing if key in saved]
    advice = f"Use {' '.join(flags)}" if flags else "Leave these settings out"
    lines.append(f"{advice}, or start a new run directory.")
    if any(key in BATCH_SIZE_KEYS for key in differing):
        lines.append(CHANGE_ADVICE)
    raise ConfigMismatchError("\n".join(lines), saved=saved, now=live)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _text(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "(not set)"


def _flag(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"--{key.replace('_', '-')} {text}"
