"""Proof that a fast tier belongs to a run, and what it knows of the durable tier.

    run_id = make_run_id(durable)               # once; all later calls read it
    record = read_record(fast)                  # None: nobody has used it
    check_owner(record, run_id, durable, fast)  # another run's is refused

The id is drawn by the first process that uses a fast tier and created in the run
directory, so one process decides it. A run directory that is deleted and begun anew
gets another: what an old RAM disk holds is then not this run's.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

from resumable_tf.checkpoint.layout import FAST_FILE, IDENTITY_FILE
from resumable_tf.checkpoint.sealed_json import SealedFile
from resumable_tf.errors import (
    CheckpointCorruptError,
    FastTierMismatchError,
    UnsafeFileError,
)
from resumable_tf.storage import Storage
from resumable_tf.storage.schema import STEP, Array, Fields, Maybe, Text

FORMAT_VERSION = 1
_NUM_REMEMBERED = 256
"""More than one start can see; a digest is 32 bytes."""
_ID = Text("[0-9a-f]{32}", 32, "an id of 32 hexadecimal digits")
_DIGESTS = Array(_ID, max_length=_NUM_REMEMBERED)
_FAST = SealedFile(
    "fast.json",
    FORMAT_VERSION,
    Fields(
        {
            "run_id": _ID,
            "run_dir": Text(),
            "known": _DIGESTS,
            "superseded": _DIGESTS,
            "copying": Maybe(STEP),
            "strange": Array(Text(), max_length=100_000),
        }
    ),
    max_bytes=16 * 2**20,
)
_IDENTITY = SealedFile(
    "identity.json", FORMAT_VERSION, Fields({"run_id": _ID}), max_bytes=2**16
)


@dataclasses.dataclass(frozen=True)
class FastRecord:
    """What `fast.json` in a fast tier says.

    Attributes:
        run_id: Of the run.
        run_dir: Its directory: a copy of a run has the same id.
        known: See `tier_choice.choose`.
        superseded: See there.
        copying: Step whose copy to the durable tier was begun and not finished.
        strange: Files in the fast tier's quarantine that are not of this run: they
            were there when it took the tier.
    """

    run_id: str
    run_dir: str
    known: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    copying: int | None = None
    strange: tuple[str, ...] = ()

    def is_of(self, run_id: str | None, durable: Storage) -> bool:
        """Returns whether it is that run's, and of this copy of it."""
        return (self.run_id, self.run_dir) == (run_id, place_of(durable))

    def knowing(self, *digests: str) -> FastRecord:
        """Returns a record that knows these too."""
        known = dict.fromkeys([*self.known, *digests])
        return dataclasses.replace(self, known=tuple(known)[-_NUM_REMEMBERED:])

    def superseding(self, *digests: str) -> FastRecord:
        """Returns a record that has superseded these too."""
        marked = dict.fromkeys([*self.superseded, *digests])
        return dataclasses.replace(self, superseded=tuple(marked)[-_NUM_REMEMBERED:])

    def write(self, storage: Storage) -> None:
        """Replaces the file, in one piece."""
        storage.write_bytes(FAST_FILE, _FAST.to_bytes(dataclasses.asdict(self)))


def place_of(durable: Storage) -> str:
    """Returns a run directory as it stands in the file, also if it is no UTF-8."""
    data = durable.root.encode("utf-8", "surrogateescape")
    return data.decode("utf-8", "backslashreplace")


def read_record(storage: Storage) -> FastRecord | None:
    """Returns what a fast tier says of itself, None if it says nothing.

    Raises:
        CheckpointCorruptError: If the file is damaged.
    """
    fields = _read(storage, FAST_FILE, _FAST)
    return None if fields is None else FastRecord(**fields)


def read_run_id(storage: Storage) -> str | None:
    """Returns a run's id, None if it has none yet.

    Raises:
        CheckpointCorruptError: If the file is damaged.
    """
    fields = _read(storage, IDENTITY_FILE, _IDENTITY)
    return None if fields is None else str(fields["run_id"])


def make_run_id(storage: Storage) -> str:
    """Returns a run's id, drawing it if it has none.

    Raises:
        CheckpointCorruptError: If the file is damaged.
    """
    found = read_run_id(storage)
    if found is not None:
        return found
    run_id = uuid.uuid4().hex
    data = _IDENTITY.to_bytes({"run_id": run_id}, is_pretty=False)
    try:
        storage.create(IDENTITY_FILE, data)
    except FileExistsError:  # Another process was faster.
        return read_run_id(storage) or run_id
    return run_id


def check_owner(
    record: FastRecord | None, run_id: str | None, durable: Storage, fast: Storage
) -> None:
    """Refuses a fast tier with checkpoints that are not this run's.

    Args:
        record: What the fast tier says of itself.
        run_id: The run's, None if it has none.
        durable: The run directory.
        fast: The fast tier; it has checkpoints.

    Raises:
        FastTierMismatchError: If it is another run's, or nobody's.
    """
    if record is not None and record.is_of(run_id, durable):
        return
    now = {"run_id": run_id, "run_dir": place_of(durable)}
    saved: dict[str, str | None] = {"run_id": None, "run_dir": None}
    whose = "does not say of which run"
    if record is not None:
        saved = {"run_id": record.run_id, "run_dir": record.run_dir}
        whose = f"run {record.run_id} in {record.run_dir}"
    raise FastTierMismatchError(
        f"the fast tier {fast.root} holds checkpoints of another run.\n"
        f"  fast tier: {whose}\n"
        f"  now:       run {run_id or '(begins now)'} in {durable.root}\n"
        "Use another directory for the fast tier, or delete this one if nobody needs "
        "it.",
        saved=saved,
        now=now,
    )


def _read(storage: Storage, name: str, kind: SealedFile) -> dict[str, Any] | None:
    """Returns a file's fields, None without the file.

    Raises:
        CheckpointCorruptError: If it is damaged.
    """
    try:
        return kind.read(storage, name)
    except (CheckpointCorruptError, UnsafeFileError) as error:
        raise CheckpointCorruptError(
            f"{error}. Delete it and the fast tier's directory: the run goes on from "
            "the durable tier"
        ) from error
