"""Writing a large local file past the page cache.

    with DirectFile("/runs/a/ckpt-7.data-00000-of-00001") as file:
        checksum = file.append(array)       # crc32c of these bytes
    file.size

A checkpoint on a disk is written once and mostly never read. In the page cache it would
cost a copy by the kernel, the memory of its pages, and what other programs had there.
Here its bytes go through one buffer of `CHUNK_BYTES`, from which the disk takes them. A
file system that can't do this gets the same pieces in the ordinary way.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from typing import Any

import google_crc32c
import numpy as np

from resumable_tf.storage.directories import named
from resumable_tf.storage.protocol import CHUNK_BYTES

_ALIGNMENT = 4096
"""Of offsets, lengths and memory: no disk asks for more."""
_O_DIRECT: int = getattr(os, "O_DIRECT", 0)  # Linux's only.


class DirectFile:
    """A new file that grows at its end; not durable before it is fsynced."""

    def __init__(self, path: str, *, bypasses_cache: bool = True) -> None:
        """Makes the file.

        Args:
            path: On a local disk.
            bypasses_cache: False for a file that is read again at once.

        Raises:
            FileExistsError: If it is there; another process may be writing it.
            OSError: If it can't be made.
        """
        self._buffer = mmap.mmap(-1, CHUNK_BYTES)  # Begins at a page.
        self._bytes = np.frombuffer(self._buffer, np.uint8)
        self._written = self._filled = 0
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        self._is_direct = False
        if bypasses_cache and _O_DIRECT:
            self._bypass_cache()

    @property
    def size(self) -> int:
        """Number of bytes appended."""
        return self._written + self._filled

    def append(self, data: Any) -> int:
        """Appends bytes and returns their crc32c.

        Args:
            data: Anything contiguous that NumPy can look into.

        Raises:
            OSError: If the disk is full or fails.
        """
        source, checksum, at = np.frombuffer(data, np.uint8), 0, 0
        while at < len(source):
            length = min(CHUNK_BYTES - self._filled, len(source) - at)
            piece = self._bytes[self._filled : self._filled + length]
            piece[:] = source[at : at + length]
            # Of the copy: it is in the processor's cache, and it is what is written.
            checksum = google_crc32c.extend(checksum, piece)
            self._filled += length
            at += length
            if self._filled == CHUNK_BYTES:
                self._write(CHUNK_BYTES)
        return int(checksum)

    def __enter__(self) -> DirectFile:
        """Returns itself."""
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Writes what is left, unless an error has ended the writing, and closes."""
        try:
            if error is None:
                self._end()
        finally:
            os.close(self._descriptor)

    def _end(self) -> None:
        size = self.size
        if self._filled:
            # Whole blocks only; what is too much is cut off again.
            self._write(-(-self._filled // _ALIGNMENT) * _ALIGNMENT)
            with named(self._path):
                os.ftruncate(self._descriptor, size)
        self._written = size

    def _write(self, length: int) -> None:
        """Writes the beginning of the buffer, and empties it.

        Raises:
            OSError: With the file's name.
        """
        end = self._written + length
        while self._written < end:
            begin = length - (end - self._written)
            with memoryview(self._buffer) as view, view[begin:length] as rest:
                try:
                    self._written += self._pwrite(rest)
                except OSError as error:
                    if error.errno != errno.EINVAL or not self._is_direct:
                        raise OSError(
                            error.errno, error.strerror, self._path
                        ) from error
                    self._write_through_cache()
        self._filled = 0

    def _pwrite(self, data: memoryview) -> int:
        return os.pwrite(self._descriptor, data, self._written)

    def _bypass_cache(self) -> None:
        # Not while it is opened: where that is refused, the file is made all the same.
        status = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, status | _O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                os.close(self._descriptor)
                raise
        else:
            self._is_direct = True

    def _write_through_cache(self) -> None:
        # Some file systems say only now that they can't, or after part of a block.
        self._is_direct = False
        status = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, status & ~_O_DIRECT)
