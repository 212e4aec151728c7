"""The files by which a catalog knows checkpoints, whatever stands in their place.

data = manifest_bytes(storage, 2000)    # or CheckpointCorruptError, with the reason
steps = listed_steps(storage)           # of TensorFlow's own list
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Collection, Iterator

from resumable_tf.checkpoint.layout import (
    CHECKPOINTS,
    STATE_FILE,
    manifest_name,
    step_of_data,
)
from resumable_tf.checkpoint.manifest import MAX_BYTES
from resumable_tf.checkpoint.state_file import MAX_BYTES as MAX_STATE_BYTES
from resumable_tf.checkpoint.state_file import parse_steps
from resumable_tf.errors import CheckpointCorruptError, UnsafeFileError, UsageError
from resumable_tf.storage import Storage

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def no_file_means_damage(what: str) -> Iterator[None]:
    """Tells what is no file that can be read from a storage that fails.

    Args:
        what: Of the checkpoint, for the message.

    Raises:
        CheckpointCorruptError: If a link, a pipe, a directory or the like is in its
            place, or this user may not read it.
    """
    try:
        yield
    except (UnsafeFileError, PermissionError) as error:
        raise CheckpointCorruptError(f"{what} can't be read: {error}") from error


def is_forbidden(error: CheckpointCorruptError) -> bool:
    """Returns whether only the right to read is missing: there may be no damage."""
    return isinstance(error.__cause__, PermissionError)


def is_lost(error: OSError) -> bool:
    """Returns whether the disk has lost what it was to read."""
    return error.errno == errno.EIO


def manifest_bytes(storage: Storage, step: int) -> bytes:
    """Returns what is in a manifest.

    Raises:
        CheckpointCorruptError: If it is no file that can be read.
    """
    with no_file_means_damage("its manifest"):
        return storage.read_bytes(manifest_name(step), max_bytes=MAX_BYTES)


def state_bytes(storage: Storage) -> bytes:
    """Returns TensorFlow's list; nothing for what is no file of its kind."""
    try:
        return storage.read_bytes(STATE_FILE, max_bytes=MAX_STATE_BYTES)
    except FileNotFoundError:
        return b""
    except UnsafeFileError as error:
        _log.warning("%s", error)
        return b""


def listed_steps(storage: Storage) -> list[int]:
    """Returns the steps in TensorFlow's list."""
    return parse_steps(state_bytes(storage))


def refuse_foreign(
    storage: Storage, names: Collection[str], committed: Collection[int | None]
) -> None:
    """Keeps what was never this project's from being removed as leftovers.

    Args:
        storage: The run directory.
        names: All files of its checkpoints.
        committed: The committed steps.

    Raises:
        UsageError: If TensorFlow's list names checkpoints and no manifest exists.
    """
    bundles = {step_of_data(name) for name in names} - {None}
    if committed or not bundles or STATE_FILE not in names:
        return
    listed = bundles.intersection(listed_steps(storage))
    if listed:
        raise UsageError(
            f"{storage.locate(CHECKPOINTS)} holds checkpoints of another "
            f"program (ckpt-{max(listed, key=lambda step: step or 0)} has no "
            "manifest); use another run directory, or move them away"
        )
