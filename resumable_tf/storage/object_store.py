"""A storage on anything fsspec can reach: gs:// (gcsfs), memory://, s3://, ...

    storage = ObjectStorage("gs://bucket/run")
    storage.upload("checkpoints/ckpt-7.index", "/tmp/ckpt-7.index")
    storage.create("checkpoints/ckpt-7.manifest.json", manifest)

An object appears as a whole or not at all. `create` is one conditional request (on
Google Cloud Storage `ifGenerationMatch=0`), so two writers can't both succeed.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import fsspec
import google_crc32c

from resumable_tf.storage.protocol import CHUNK_BYTES


class ObjectStorage:
    """Objects below a URL; see `Storage`."""

    def __init__(self, url: str) -> None:
        """Remembers the URL; the connection is made at first use.

        Args:
            url: For instance "gs://bucket/run" or "memory://run".
        """
        self._url = url.rstrip("/")
        self._opened: tuple[Any, str] | None = None

    @property
    def root(self) -> str:
        """The URL of the root."""
        return self._url

    def locate(self, name: str) -> str:
        """Returns the URL of `name`."""
        return f"{self._url}/{name}" if name else self._url

    def local_path(self, name: str) -> str | None:
        """Returns None: TensorFlow's files are uploaded."""
        return None

    def make_dirs(self, directory: str) -> None:
        """Does nothing: object stores have no directories."""

    def read_bytes(self, name: str) -> bytes:
        """Returns the whole object."""
        files, path = self._at(name)
        return bytes(files.cat_file(path))

    def read_chunks(self, name: str) -> Iterator[bytes]:
        """Yields the object in pieces."""
        files, path = self._at(name)
        with files.open(path, "rb", block_size=CHUNK_BYTES) as file:
            while chunk := file.read(CHUNK_BYTES):
                yield bytes(chunk)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes or replaces an object."""
        files, path = self._at(name)
        files.pipe_file(path, data)

    def upload(self, name: str, path: str) -> None:
        """Copies the local file `path` to `name` and compares what has arrived.

        Raises:
            OSError: If the object's length or checksum is not the file's.
        """
        files, target = self._at(name)
        files.put_file(path, target)
        info = files.info(target)
        expected_size = os.stat(path).st_size
        if info["size"] != expected_size:
            raise OSError(
                f"{self.locate(name)} has {info['size']} bytes after the upload of "
                f"{expected_size}"
            )
        stored = info.get("crc32c")  # Google Cloud Storage's own, in base64.
        if stored is not None and stored != _base64_crc32c(path):
            raise OSError(f"{self.locate(name)} was changed by its upload: {stored}")

    def create(self, name: str, data: bytes) -> None:
        """Writes an object that must not exist yet, in one conditional request.

        Raises:
            FileExistsError: If `name` exists with other contents.
        """
        files, path = self._at(name)
        try:
            files.pipe_file(path, data, mode="create")
        except FileExistsError:
            # A request that succeeded but whose answer was lost is sent again by
            # the client and then finds its own object.
            if self.read_bytes(name) != data:
                raise

    def move(self, source: str, target: str) -> None:
        """Copies an object, then deletes the old one."""
        files, path = self._at(source)
        _, new_path = self._at(target)
        files.cp_file(path, new_path)
        files.rm_file(path)

    def delete(self, name: str) -> None:
        """Deletes an object; one that is not there is no error."""
        files, path = self._at(name)
        with contextlib.suppress(FileNotFoundError):
            files.rm_file(path)

    def exists(self, name: str) -> bool:
        """Returns whether the object exists."""
        files, path = self._at(name)
        return bool(files.isfile(path))

    def size(self, name: str) -> int:
        """Returns the object's length in bytes."""
        files, path = self._at(name)
        return int(files.info(path)["size"])

    def list(self, directory: str) -> list[str]:
        """Returns the names of all objects below `directory`, sorted."""
        files, path = self._at(directory)
        _, root = self._at("")
        return sorted(found[len(root) :].lstrip("/") for found in files.find(path))

    def sync(self, name: str) -> None:
        """Does nothing: an object is durable when its upload returns."""

    def remove_partial_writes(self, directory: str) -> None:
        """Does nothing: an unfinished upload is never visible."""

    def _at(self, name: str) -> tuple[Any, str]:
        """Returns the file system and the path that it knows `name` by."""
        if self._opened is None:
            # gcsfs caches listings forever by default, and would not see what
            # another process has written.
            files, root = fsspec.core.url_to_fs(self._url, use_listings_cache=False)
            self._opened = files, root.rstrip("/")
        files, root = self._opened
        return files, f"{root}/{name}" if name else root


def _base64_crc32c(path: str) -> str:
    """Returns a file's crc32c as Google Cloud Storage writes it."""
    checksum = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            checksum.update(chunk)
    return base64.b64encode(checksum.digest()).decode("ascii")
