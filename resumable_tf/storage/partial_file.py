"""A temporary file that says by a lock that its writer is alive.

    with partial_file(directory, ".partial-") as (file, name):
        file.write(data)
        os.replace(name, "run.json", src_dir_fd=directory, dst_dir_fd=directory)

The kernel lets the lock go when the process dies, however that happens. Nobody can
guess the name, and nothing that is there already is opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
import uuid
from collections.abc import Iterator
from typing import BinaryIO

_NO_LOCKS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_BUSY = {errno.EWOULDBLOCK, errno.EACCES}
_CERTAINLY_DEAD_SECS = 24 * 3600.0
"""Where locks can't tell: no small file takes so long to write."""
_NUM_TRIES = 3


@contextlib.contextmanager
def partial_file(directory: int, prefix: str) -> Iterator[tuple[BinaryIO, str]]:
    """Yields a new locked file and its name; whatever has that name at the end goes.

    Args:
        directory: A descriptor.
        prefix: Of the name.
    """
    descriptor, name = _create(directory, prefix)
    try:
        with open(descriptor, "wb") as file:
            yield file, name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)


def is_dead(name: str, directory: int) -> bool:
    """Returns whether a temporary file is this user's and nobody writes it any more.

    Args:
        name: In the directory.
        directory: A descriptor.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except OSError:  # Gone, a link, or not for us.
        return False
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            age_secs = time.time() - found.st_mtime
            return error.errno not in _BUSY and age_secs > _CERTAINLY_DEAD_SECS
        return True
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> None:
    """Waits for a file's or a directory's lock; it goes when the file is closed.

    File systems without locks go without.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _create(directory: int, prefix: str) -> tuple[int, str]:
    """Makes a file and locks it, before anybody else does.

    Raises:
        FileNotFoundError: If others remove what is made, time after time.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(_NUM_TRIES):
        name = prefix + uuid.uuid4().hex
        descriptor = os.open(name, flags, 0o666, dir_fd=directory)
        try:
            lock(descriptor)
            # Who looked for dead ones may have come in between.
            if os.fstat(descriptor).st_nlink:
                return descriptor, name
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, "removed by another process", name)
