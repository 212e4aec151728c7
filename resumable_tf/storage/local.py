"""A storage on a local (or network) file system.

    storage = LocalStorage("runs/embedded-tiny")
    storage.write_bytes("metrics/train.jsonl", b"...")

A file is written under a temporary name, fsynced and renamed, then its directory is
fsynced: after a crash it is there as a whole or not at all. No link below the root is
followed by what writes, moves, lists or deletes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator

import google_crc32c

from resumable_tf.storage.directories import open_directory, open_parent, refuse_link
from resumable_tf.storage.file_chunks import crc32c_of, read_file
from resumable_tf.storage.partial_file import is_dead, lock, partial_file
from resumable_tf.storage.protocol import CHUNK_BYTES
from resumable_tf.storage.small_files import (
    SMALL_BYTES,
    open_below,
    read_below,
)

_PARTIAL_PREFIX = ".partial-"
_STAYS = {
    *(errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EBUSY),
    errno.ENOTDIR,
}
"""Why a directory may stay although nothing is in it any more: it does no harm."""
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class LocalStorage:
    """Files below a directory of this machine; see `Storage`."""

    def __init__(self, directory: str) -> None:
        """Remembers the directory; nothing is read or written.

        Args:
            directory: Path of the root; "~" stands for the home directory.
        """
        self._root = os.path.abspath(os.path.expanduser(directory))

    @property
    def root(self) -> str:
        """The absolute path of the root."""
        return self._root

    def locate(self, name: str) -> str:
        """Returns the absolute path of `name`."""
        return os.path.join(self._root, *name.split("/")) if name else self._root

    def local_path(self, name: str) -> str | None:
        """Returns the absolute path of `name`."""
        return self.locate(name)

    def make_dirs(self, directory: str) -> None:
        """Makes `directory` and those above it."""
        with open_directory(self._root, directory, makes=True):
            pass

    def read_bytes(self, name: str, *, max_bytes: int = SMALL_BYTES) -> bytes:
        """Returns a small file as a whole."""
        return read_below(self._root, name, max_bytes=max_bytes)

    def read_chunks(self, name: str) -> Iterator[bytes]:
        """Yields the file in pieces."""
        with open_below(self._root, name) as descriptor:
            while chunk := os.read(descriptor, CHUNK_BYTES):
                yield chunk

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes or replaces a file atomically."""
        self._write(name, [data])

    def upload(self, name: str, path: str, *, checksum: str | None = None) -> None:
        """Copies the local file `path` to `name` atomically.

        Raises:
            FileExistsError: If `name` exists with other contents.
            OSError: If what was read does not have the checksum.
        """
        if self._has(name, path, checksum):
            return
        chunks = read_file(path)
        if checksum is not None:
            chunks = _checked(chunks, path, checksum)
        try:
            self._create(name, chunks)
        except FileExistsError:  # Since this moment.
            if not self._has(name, path, checksum):
                raise

    def create(self, name: str, data: bytes) -> None:
        """Writes a file that must not exist yet.

        Raises:
            FileExistsError: If `name` exists.
        """
        self._create(name, [data])

    def _create(self, name: str, chunks: Iterable[bytes]) -> None:
        """Writes a new file.

        Raises:
            FileExistsError: If there is one already.
        """
        with self._partial(name, chunks) as (directory, partial, base):
            try:
                os.link(partial, base, src_dir_fd=directory, dst_dir_fd=directory)
            except FileExistsError:
                refuse_link(directory, base, self.locate(name))
                raise
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                if self.exists(name):
                    raise FileExistsError(errno.EEXIST, "exists") from error
                os.replace(partial, base, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)

    def read_version(self, name: str) -> tuple[bytes, str]:
        """Returns the whole file and its digest."""
        data = self.read_bytes(name)
        return data, hashlib.sha256(data).hexdigest()

    def replace(self, name: str, data: bytes, *, version: str) -> str:
        """Writes over one version of a file, and no other.

        Raises:
            FileExistsError: If the file is of another version or gone.
        """
        if not self.exists(name):
            raise FileExistsError(errno.EEXIST, "gone", self.locate(name))
        with self._exclusive(name, version):
            self.write_bytes(name, data)
        return hashlib.sha256(data).hexdigest()

    def delete_version(self, name: str, *, version: str) -> None:
        """Deletes one version of a file; one that is not there is no error.

        Raises:
            FileExistsError: If the file is of another version.
        """
        if self.exists(name):
            with self._exclusive(name, version):
                self.delete(name)

    def move(self, source: str, target: str) -> None:
        """Renames a file atomically, over what is there."""
        with (
            open_parent(self._root, source) as (old, old_name),
            open_parent(self._root, target, makes=True) as (new, new_name),
        ):
            os.replace(old_name, new_name, src_dir_fd=old, dst_dir_fd=new)
            os.fsync(new)
            os.fsync(old)

    def delete(self, name: str) -> None:
        """Deletes a file and the directories that it leaves empty."""
        directory = name
        try:
            with open_parent(self._root, name) as (descriptor, base):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(base, dir_fd=descriptor)
                os.fsync(descriptor)
        except (FileNotFoundError, NotADirectoryError):
            return  # Nor is its directory there.
        while directory := directory.rpartition("/")[0]:
            with (
                contextlib.suppress(FileNotFoundError),
                open_parent(self._root, directory) as (descriptor, base),
            ):
                if not _remove(base, descriptor):
                    return
                os.fsync(descriptor)

    def exists(self, name: str) -> bool:
        """Returns whether the file exists."""
        # Not `isfile`: to it every error, a lost mount too, means no. A link is
        # something that is there: who reads it, says what is wrong with it.
        try:
            with open_parent(self._root, name) as (directory, base):
                found = os.stat(base, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)

    def size(self, name: str) -> int:
        """Returns the file's length in bytes."""
        with open_below(self._root, name) as descriptor:
            return os.fstat(descriptor).st_size

    def list(self, directory: str) -> list[str]:
        """Returns the names of all files below `directory`, sorted."""
        return sorted(
            name
            for name, is_directory in _walk(self._root, directory)
            if not is_directory and not _is_partial(name)
        )

    def sync(self, name: str) -> None:
        """Fsyncs a file and its directory."""
        with open_parent(self._root, name) as (directory, base):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(base, flags, dir_fd=directory)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.fsync(directory)

    def remove_partial_writes(self, directory: str) -> None:
        """Removes the temporary files of killed writes, and empty directories.

        Nobody else may write below `directory`.
        """
        for name, is_directory in _walk(self._root, directory):
            if not is_directory and not _is_partial(name):
                continue
            try:
                with open_parent(self._root, name) as (descriptor, base):
                    if is_directory:
                        _remove(base, descriptor)
                    else:
                        os.unlink(base, dir_fd=descriptor)
            except FileNotFoundError:  # Another process was faster.
                continue

    def remove_dead_writes(self, directory: str) -> None:
        """Removes the temporary files of killed writes in `directory` itself.

        Others may write there meanwhile: what is locked, or another user's, stays.
        """
        try:
            with open_directory(self._root, directory) as descriptor:
                for base in os.listdir(descriptor):
                    if _is_partial(base) and is_dead(base, descriptor):
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(base, dir_fd=descriptor)
        except (FileNotFoundError, NotADirectoryError):
            return

    def _has(self, name: str, path: str, checksum: str | None) -> bool:
        """Returns whether a file is there, with the contents that it is to have.

        Raises:
            FileExistsError: If it has others.
        """
        if not self.exists(name):
            return False
        expected = crc32c_of(read_file(path)) if checksum is None else checksum
        is_equal = self.size(name) == os.path.getsize(path)
        if not is_equal or crc32c_of(self.read_chunks(name)) != expected:
            raise FileExistsError(
                f"{self.locate(name)} is not what was to be copied there: another "
                "process has written it"
            )
        self.sync(name)
        return True

    @contextlib.contextmanager
    def _exclusive(self, name: str, version: str) -> Iterator[None]:
        """Keeps others from writing versions meanwhile; compares the one there is.

        The lock is on the directory, so that it leaves no file behind. The kernel
        opens it when the process dies. File systems without locks go without.

        Raises:
            FileExistsError: If the file is of another version.
        """
        with open_parent(self._root, name) as (directory, _):
            lock(directory)
            try:
                found = self.read_version(name)[1]
            except FileNotFoundError:
                found = ""
            if found != version:
                raise FileExistsError(errno.EEXIST, "changed")
            yield

    def _write(self, name: str, chunks: Iterable[bytes]) -> None:
        with self._partial(name, chunks) as (directory, partial, base):
            os.replace(partial, base, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)

    @contextlib.contextmanager
    def _partial(
        self, name: str, chunks: Iterable[bytes]
    ) -> Iterator[tuple[int, str, str]]:
        """Yields a directory, in it a durable temporary file, and the file's name."""
        with open_parent(self._root, name, makes=True) as (directory, base):
            with partial_file(directory, _PARTIAL_PREFIX) as (file, partial):
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                yield directory, partial, base


def _is_partial(name: str) -> bool:
    return name.rpartition("/")[2].startswith(_PARTIAL_PREFIX)


def _walk(root: str, name: str) -> Iterator[tuple[str, bool]]:
    """Yields what is below a directory, and whether it is one; what it holds first.

    Not `os.walk`: to it, even with `onerror`, a directory that can't be looked at is a
    file. Raises `OSError` for that, but for what is not there (any more). Links are
    never followed.
    """
    try:
        with open_directory(root, name) as directory, os.scandir(directory) as found:
            entries = [
                (entry.name, entry.is_dir(follow_symlinks=False)) for entry in found
            ]
    except (FileNotFoundError, NotADirectoryError):
        return
    prefix = f"{name}/" if name else ""
    for base, is_directory in entries:
        if is_directory:
            yield from _walk(root, prefix + base)
        yield prefix + base, is_directory


def _remove(name: str, directory: int) -> bool:
    """Removes a directory if it is empty; returns whether it is gone.

    Raises:
        OSError: If the disk fails.
    """
    try:
        os.rmdir(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in _STAYS:
            raise
        return False
    return True


def _checked(chunks: Iterable[bytes], path: str, expected: str) -> Iterator[bytes]:
    """Yields the chunks, and compares their crc32c at the end.

    Raises:
        OSError: If it is another.
    """
    checksum = 0
    for chunk in chunks:
        checksum = google_crc32c.extend(checksum, chunk)
        yield chunk
    if f"{checksum:08x}" != expected:
        raise OSError(f"{path} has crc32c {checksum:08x}, not {expected}")
