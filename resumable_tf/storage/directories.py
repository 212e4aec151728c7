"""Directories below a root, none of which is reached through a link.

    with open_parent("/runs/a", "checkpoints/ckpt-7.index") as (directory, name):
        os.unlink(name, dir_fd=directory)

Who can put a link into a directory decides what everything that follows it deletes or
writes. So every component below the root is opened as the directory that it is, from
the one above it, and stays open meanwhile. The root itself is the caller's word: it may
be a link to a directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from resumable_tf.errors import StorageError

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LINKS = {errno.ELOOP, errno.ENOTDIR}


@contextlib.contextmanager
def open_directory(root: str, name: str, *, makes: bool = False) -> Iterator[int]:
    """Yields a descriptor of a directory.

    Args:
        root: An absolute path.
        name: Relative to it, with "/"; empty for the root.
        makes: Whether to make what is not there.

    Raises:
        OSError: If it can't be opened; with its path.
        StorageError: If a link is in the way.
    """
    path, descriptor = root, _open_root(root, makes=makes)
    try:
        for part in name.split("/") if name else []:
            path = os.path.join(path, part)
            inner = _open_inner(descriptor, part, path, makes=makes)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_parent(
    root: str, name: str, *, makes: bool = False
) -> Iterator[tuple[int, str]]:
    """Yields a descriptor of the directory of a file, and the file's name there.

    Args:
        root: An absolute path.
        name: Of the file, relative to it, with "/".
        makes: Whether to make directories that are not there.

    Raises:
        OSError: If the directory can't be opened, or with the file's path what fails
            in the block.
        StorageError: If a link is in the way.
    """
    directory, _, base = name.rpartition("/")
    with open_directory(root, directory, makes=makes) as descriptor:
        with named(os.path.join(root, *name.split("/"))):
            yield descriptor, _component(base, root)


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Gives errors of the system the path that they are about.

    Calls that take a descriptor leave it out, or know a part of it only.
    """
    try:
        yield
    except OSError as error:
        known = error.filename
        if error.errno is not None and not (
            isinstance(known, str) and os.path.isabs(known)
        ):
            error.filename = path
            if error.filename2 is not None:
                del error.filename2  # None would be shown.
        raise


def refuse_link(directory: int, name: str, path: str) -> None:
    """Refuses a link where a file is expected.

    Raises:
        StorageError: If there is one.
    """
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise StorageError(_about_link(path))


def _open_root(root: str, *, makes: bool) -> int:
    try:
        with named(root):
            if makes:
                _make(root)
            return os.open(root, _FLAGS)
    except FileNotFoundError:
        if os.path.islink(root):
            raise StorageError(
                f"{root} is a link to {os.readlink(root)}, which is not there. If that "
                "is on another disk, mount it first; else remove the link"
            ) from None
        raise


def _make(path: str) -> None:
    """Makes a directory and those above it."""
    try:
        os.mkdir(path)
    except FileExistsError:  # What it is shows when it is opened.
        return
    except FileNotFoundError:
        above = os.path.dirname(path)
        if above == path or os.path.islink(above):
            raise
        _make(above)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
    sync_path(os.path.dirname(path))


def sync_path(path: str) -> None:
    """Makes the names in a directory durable."""
    with named(path):
        descriptor = os.open(path, _FLAGS)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_inner(directory: int, part: str, path: str, *, makes: bool) -> int:
    """Opens a directory in another one.

    Raises:
        StorageError: If it is a link.
    """
    _component(part, path)
    with named(path):
        if makes:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=directory)
                os.fsync(directory)
        try:
            return os.open(part, _FLAGS | os.O_NOFOLLOW, dir_fd=directory)
        except OSError as error:
            if error.errno in _LINKS:
                refuse_link(directory, part, path)
            raise


def _component(part: str, where: str) -> str:
    """Refuses what leads out of a directory.

    Raises:
        ValueError: If it does.
    """
    if part in ("", ".", "..") or "\0" in part:
        raise ValueError(f"{part!r} in {where} is no name of a file")
    return part


def _about_link(path: str) -> str:
    target = os.readlink(path)
    what = "" if os.path.exists(path) else ", which is not there"
    return (
        f"{path} is a link to {target}{what}. Links inside a run directory are not "
        "followed: put the whole run directory where there is space, and let the run "
        "directory itself be the link"
    )
