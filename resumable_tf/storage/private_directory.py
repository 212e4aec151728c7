"""A directory that nobody else may have prepared, or can change.

    make_private("/dev/shm/run")        # StorageError if it is somebody else's

Checkpoints are deleted and moved there by their names. In a place that everybody may
write to, such as a RAM disk, another user could have made the directory first.
"""

from __future__ import annotations

import contextlib
import os
import stat

from resumable_tf.errors import StorageError
from resumable_tf.storage.directories import open_directory

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make_private(path: str) -> None:
    """Makes a directory for this user alone, and checks one that is there.

    Args:
        path: An absolute path.

    Raises:
        OSError: If it can't be made.
        StorageError: If it is another user's, or others can write to it or replace it.
    """
    above = os.path.dirname(path)
    with open_directory(above, "", makes=True):
        pass
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    with open_directory(path, "") as descriptor:
        # Of what is open: no name is looked up twice.
        found = os.fstat(descriptor)
        reason = why_not_private(found.st_uid, found.st_mode, user=os.geteuid())
        if reason is None:
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & 0o700)
    if reason is not None:
        raise StorageError(
            f"{path} {reason}. What is written and deleted there must be this user's "
            "alone: use another directory, or make it anew with `mkdir -m 700`"
        )
    check_above(path)


def check_private(path: str) -> None:
    """Checks a directory, if it is there, and changes nothing.

    Args:
        path: An absolute path.

    Raises:
        StorageError: If it is another user's, or others can write to it.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    reason = why_not_private(found.st_uid, found.st_mode, user=os.geteuid())
    if reason is not None:
        raise StorageError(f"{path} {reason}. What is there is not read")


def check_above(path: str) -> None:
    """Refuses a path of which others can replace a part.

    Args:
        path: An absolute path.

    Raises:
        StorageError: If they can.
    """
    above = os.path.dirname(os.path.realpath(path))
    while True:
        if is_anybodys(os.stat(above).st_mode):
            raise StorageError(
                f"everybody may rename what is in {above}, and so replace {path}: use "
                f"another directory, or `chmod +t {above}`"
            )
        if above == os.path.dirname(above):
            return
        above = os.path.dirname(above)


def why_not_private(owner: int, mode: int, *, user: int) -> str | None:
    """Returns why a directory is not a user's alone; None if it is.

    Args:
        owner: Whose it is.
        mode: What may be done there.
        user: Whose it should be.
    """
    if owner != user:
        return f"belongs to user {owner}, and this process runs as user {user}"
    if mode & _OTHERS:
        return f"can be written to by others (mode {stat.S_IMODE(mode):04o})"
    return None


def is_anybodys(mode: int) -> bool:
    """Returns whether everybody may rename what others have put into a directory."""
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX
