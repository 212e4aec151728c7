"""What every storage can do, and no more.

    storage = open_storage("gs://bucket/run")
    storage.write_bytes("notes/a.txt", b"replaces what was there, as a whole")
    storage.create("notes/b.txt", b"raises FileExistsError if it is there")
    for chunk in storage.read_chunks("notes/a.txt"):
        ...

Names are relative to the storage's root, with "/" between their parts. Directories
have no meaning of their own: one exists as long as a file is below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from resumable_tf.storage.small_files import SMALL_BYTES

CHUNK_BYTES = 4 * 2**20
"""Bytes read or written at a time."""


@runtime_checkable
class Storage(Protocol):
    """A tree of files below one root.

    Every write is invisible until it is complete, and durable when it returns.
    A missing file raises `FileNotFoundError`, everything else `OSError`. No link
    below the root is followed; what is no regular file raises `UnsafeFileError`.
    """

    @property
    def root(self) -> str:
        """The absolute path or URL that all names are relative to."""

    def locate(self, name: str) -> str:
        """Returns the absolute path or URL of `name`."""

    def local_path(self, name: str) -> str | None:
        """Returns a path that TensorFlow may write to, None if there is none."""

    def make_dirs(self, directory: str) -> None:
        """Makes `directory` ready for files; object stores need nothing."""

    def read_bytes(self, name: str, *, max_bytes: int = SMALL_BYTES) -> bytes:
        """Returns a small file as a whole.

        Args:
            name: The file.
            max_bytes: No more is read: a longer file is no such file.

        Raises:
            UnsafeFileError: If it is longer, or no regular file.
        """

    def read_chunks(self, name: str) -> Iterator[bytes]:
        """Yields the file in pieces of at most `CHUNK_BYTES`."""

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes or replaces a file."""

    def upload(self, name: str, path: str, *, checksum: str | None = None) -> None:
        """Writes a file with the contents of the local file `path`.

        One that is there is accepted if it has these contents already, as by an
        attempt whose answer was lost; it is never written over.

        Args:
            name: The file.
            path: Of the local file.
            checksum: Its crc32c as 8 hexadecimal digits, if it is known: then it is
                not read once more to find out.

        Raises:
            FileExistsError: If `name` exists with other contents; it is left as it is.
            OSError: If something else has arrived, or was read.
        """

    def create(self, name: str, data: bytes) -> None:
        """Writes a file that must not exist yet: the commit.

        Raises:
            FileExistsError: If `name` exists; it is left as it is.
        """

    def read_version(self, name: str) -> tuple[bytes, str]:
        """Returns a small file, and a text that stands for this version of it.

        Raises:
            UnsafeFileError: If it is longer than small files are, or no regular file.
        """

    def replace(self, name: str, data: bytes, *, version: str) -> str:
        """Writes over one version of a file, and no other.

        Returns:
            The new version.

        Raises:
            FileExistsError: If the file is of another version or gone; it is left as
                it is.
        """

    def delete_version(self, name: str, *, version: str) -> None:
        """Deletes one version of a file; one that is not there is no error.

        Raises:
            FileExistsError: If the file is of another version; it is left as it is.
        """

    def move(self, source: str, target: str) -> None:
        """Gives a file another name, replacing what is there.

        Atomic on a local disk; a copy and a deletion on object stores, so that a
        kill in between leaves both.
        """

    def delete(self, name: str) -> None:
        """Deletes a file; one that is not there is no error."""

    def exists(self, name: str) -> bool:
        """Returns whether the file exists."""

    def size(self, name: str) -> int:
        """Returns the file's length in bytes."""

    def list(self, directory: str) -> list[str]:
        """Returns the names of all files below `directory`, sorted."""

    def sync(self, name: str) -> None:
        """Makes a file that something else wrote, and its name, durable."""

    def remove_partial_writes(self, directory: str) -> None:
        """Removes what killed writes of this storage left below `directory`."""

    def remove_dead_writes(self, directory: str) -> None:
        """The same for `directory` itself, where others may write meanwhile."""
