"""The one reader of local files: regular files only, through no link, up to a limit.

    data = read_below("/data/run", "checkpoints/ckpt-7.manifest.json", max_bytes=2**24)
    data = read_regular("/tmp/beat", max_bytes=160)

What stands where a file should be may be anything: a link that leads out of the run, a
pipe that never says anything, a device that never ends. It is looked at through its
descriptor, so that nobody can put something else there in between.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from resumable_tf.errors import UnsafeFileError

SMALL_BYTES = 16 * 2**20
"""Limit for files of which nothing else is known."""
_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe without a writer would keep `open` waiting.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | _NO_LINK
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_regular(path: str, *, max_bytes: int) -> bytes:
    """Returns a whole file; the directories above it are taken as they are.

    Args:
        path: The file.
        max_bytes: No more is read.

    Raises:
        UnsafeFileError: If it is no regular file, or longer.
        FileNotFoundError: If there is nothing.
    """
    directory, _, name = path.rpartition("/")
    root = directory or ("/" if path.startswith("/") else ".")
    return read_below(root, name, max_bytes=max_bytes)


def read_below(root: str, name: str, *, max_bytes: int) -> bytes:
    """Returns a whole file below a directory; no link below that is followed.

    Args:
        root: The directory; itself it may be a link.
        name: Of the file, with "/" between its parts.
        max_bytes: No more is read.

    Raises:
        UnsafeFileError: If it is no regular file, or longer.
        FileNotFoundError: If there is nothing.
    """
    with open_below(root, name) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > max_bytes:
            raise too_long(os.path.join(root, name), size, max_bytes)
        pieces, num_left = [], max_bytes + 1
        # It may grow meanwhile, and files of /proc say that they are empty.
        while num_left and (piece := os.read(descriptor, min(num_left, 2**20))):
            pieces.append(piece)
            num_left -= len(piece)
    if not num_left:
        raise too_long(os.path.join(root, name), max_bytes + 1, max_bytes)
    return b"".join(pieces)


@contextlib.contextmanager
def open_below(root: str, name: str) -> Iterator[int]:
    """Yields the descriptor of a regular file below a directory, to read it.

    Raises:
        UnsafeFileError: If it is no regular file, or behind a link.
    """
    *parents, last = name.split("/")
    path = os.path.join(root, name)
    with open_directory(root, "/".join(parents)) as directory:
        try:
            descriptor = os.open(last, _READ, dir_fd=directory)
        except OSError as error:
            raise _told(error, path, directory, last) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise UnsafeFileError(f"{path} is {_kind(mode)}, not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_directory(root: str, name: str) -> Iterator[int]:
    """Yields the descriptor of a directory below another one.

    Args:
        root: The other one; itself it may be a link.
        name: With "/" between its parts; empty for the other one itself.

    Raises:
        UnsafeFileError: If a part of the name is a link.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    directory, path = os.open(root, flags), root
    try:
        for part in filter(None, name.split("/")):
            path = os.path.join(path, part)
            try:
                inner = os.open(part, flags | _NO_LINK, dir_fd=directory)
            except OSError as error:
                raise _told(error, path, directory, part) from error
            os.close(directory)
            directory = inner
        yield directory
    finally:
        os.close(directory)


def stat_below(root: str, name: str) -> os.stat_result | None:
    """Returns what is known of a file below a directory, None if there is none.

    A link is not followed; behind one there is nothing to be looked at.

    Raises:
        UnsafeFileError: If a part of the name above the file is a link.
    """
    *parents, last = name.split("/")
    try:
        with open_directory(root, "/".join(parents)) as directory:
            return os.stat(last or ".", dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def too_long(path: str, size: int, max_bytes: int) -> UnsafeFileError:
    """Returns the error for a file that is longer than any that is written there."""
    return UnsafeFileError(
        f"{path} has {size} bytes or more; such a file has at most {max_bytes}"
    )


def _told(error: OSError, path: str, directory: int, name: str) -> OSError:
    """Returns the error with the whole path, or that of something in the way."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        with contextlib.suppress(OSError):
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                target = os.readlink(name, dir_fd=directory)
                return UnsafeFileError(
                    f"{path} is a symbolic link to {target}, and nothing in a run "
                    "directory is read through one; put there what it leads to"
                )
            if error.errno == errno.ENXIO:
                return UnsafeFileError(f"{path} is {_kind(mode)}, not a regular file")
    return OSError(error.errno, os.strerror(error.errno or 0), path)


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "something unknown")
