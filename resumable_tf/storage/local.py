"""A storage on a local (or network) file system.

    storage = LocalStorage("runs/embedded-tiny")
    storage.write_bytes("metrics/train.jsonl", b"...")

A file is written under a temporary name, fsynced and renamed, then its directory is
fsynced: after a crash it is there as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import uuid
from collections.abc import Iterable, Iterator

import google_crc32c

from resumable_tf.storage.file_chunks import crc32c_of, read_file
from resumable_tf.storage.protocol import CHUNK_BYTES
from resumable_tf.storage.small_files import (
    SMALL_BYTES,
    open_below,
    open_directory,
    read_below,
    stat_below,
)

_PARTIAL_PREFIX = ".partial-"
_NO_LOCKS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_STAYS = {
    *(errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EBUSY),
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
        path = self.locate(directory)
        if not os.path.isdir(path):
            os.makedirs(path, exist_ok=True)
            _sync_directory(os.path.dirname(path))

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
        target = self.locate(name)
        with self._partial(target, chunks) as partial:
            try:
                os.link(partial, target)
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                if self.exists(name):
                    raise FileExistsError(errno.EEXIST, "exists", target) from error
                os.replace(partial, target)
        _sync_directory(os.path.dirname(target))

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
        old, new = self.locate(source), self.locate(target)
        os.makedirs(os.path.dirname(new), exist_ok=True)
        os.replace(old, new)
        for directory in {os.path.dirname(new), os.path.dirname(old)}:
            _sync_directory(directory)

    def delete(self, name: str) -> None:
        """Deletes a file and the directories that it leaves empty."""
        path = self.locate(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        directory = os.path.dirname(path)
        while directory.startswith(self._root + os.sep) and _remove(directory):
            directory = os.path.dirname(directory)
        with contextlib.suppress(FileNotFoundError):
            _sync_directory(directory)

    def exists(self, name: str) -> bool:
        """Returns whether the file exists."""
        # Not `isfile`: to it every error, a lost mount too, means no.
        found = stat_below(self._root, name)
        return found is not None and stat.S_ISREG(found.st_mode)

    def size(self, name: str) -> int:
        """Returns the file's length in bytes."""
        with open_below(self._root, name) as descriptor:
            return os.fstat(descriptor).st_size

    def list(self, directory: str) -> list[str]:
        """Returns the names of all files below `directory`, sorted."""
        names: list[str] = []
        try:  # Not through a link, below which are other people's names.
            with open_directory(self._root, directory):
                pass
        except (FileNotFoundError, NotADirectoryError):
            return names
        for path, is_directory in _walk(self.locate(directory)):
            is_partial = os.path.basename(path).startswith(_PARTIAL_PREFIX)
            if not is_directory and not is_partial:
                names.append(os.path.relpath(path, self._root).replace(os.sep, "/"))
        return sorted(names)

    def sync(self, name: str) -> None:
        """Fsyncs a file and its directory."""
        path = self.locate(name)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync_directory(os.path.dirname(path))

    def remove_partial_writes(self, directory: str) -> None:
        """Removes the temporary files of killed writes, and empty directories."""
        for path, is_directory in _walk(self.locate(directory)):
            if is_directory:
                _remove(path)
            elif os.path.basename(path).startswith(_PARTIAL_PREFIX):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

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
        path = os.path.dirname(self.locate(name))
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            try:
                found = self.read_version(name)[1]
            except FileNotFoundError:
                found = ""
            if found != version:
                raise FileExistsError(errno.EEXIST, "changed", self.locate(name))
            yield
        finally:
            os.close(descriptor)

    def _write(self, name: str, chunks: Iterable[bytes]) -> None:
        target = self.locate(name)
        with self._partial(target, chunks) as partial:
            os.replace(partial, target)
        _sync_directory(os.path.dirname(target))

    @contextlib.contextmanager
    def _partial(self, target: str, chunks: Iterable[bytes]) -> Iterator[str]:
        """Yields a durable temporary file beside `target`; removes it afterwards."""
        directory = os.path.dirname(target)
        os.makedirs(directory, exist_ok=True)
        partial = os.path.join(directory, _PARTIAL_PREFIX + uuid.uuid4().hex)
        try:
            with open(partial, "xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            yield partial
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)


def _walk(directory: str) -> Iterator[tuple[str, bool]]:
    """Yields what is below a directory, and whether it is one; what it holds first.

    Not `os.walk`: to it, even with `onerror`, a directory that can't be looked at is a
    file. Raises `OSError` for that, but for what is not there (any more).
    """
    try:
        with os.scandir(directory) as found:
            entries = list(found)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        is_directory = entry.is_dir()
        if is_directory and not entry.is_symlink():
            yield from _walk(entry.path)
        yield entry.path, is_directory


def _remove(directory: str) -> bool:
    """Removes a directory if it is empty; returns whether it is gone.

    Raises:
        OSError: If the disk fails.
    """
    try:
        os.rmdir(directory)
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


def _sync_directory(path: str) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
