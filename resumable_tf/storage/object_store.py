"""A storage on anything fsspec can reach: gs:// (gcsfs), memory://, s3://, ...

    storage = ObjectStorage("gs://bucket/run")
    storage.upload("checkpoints/ckpt-7.index", "/tmp/ckpt-7.index")
    storage.create("checkpoints/ckpt-7.manifest.json", manifest)

An object appears as a whole or not at all. `create` is one conditional request (on
Google Cloud Storage `ifGenerationMatch=0`), so two writers can't both succeed. What
fails for a passing reason is tried again, see `RetryPolicy`.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import fsspec

from resumable_tf.storage import gcs, gcs_parts
from resumable_tf.storage.file_chunks import crc32c_of, read_file
from resumable_tf.storage.protocol import CHUNK_BYTES
from resumable_tf.storage.retry import RetryPolicy, UploadChangedError
from resumable_tf.storage.small_files import SMALL_BYTES, too_long

_NUM_PARALLEL_READS = 4
_T = TypeVar("_T")


class ObjectStorage:
    """Objects below a URL; see `Storage`."""

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Remembers the URL; the connection is made at first use.

        Args:
            url: For instance "gs://bucket/run" or "memory://run".
            options: For fsspec's file system, such as "endpoint_url" and "token".
            retry: How often to try; None takes the default.
        """
        self._url = url.rstrip("/")
        self._options = dict(options or {})
        self._retry = retry or RetryPolicy()
        self._opened: tuple[Any, str] | None = None
        # Each held by one file or part in memory, whatever is uploaded side by side.
        self._slots = threading.BoundedSemaphore(gcs_parts.NUM_PARALLEL_PARTS)

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

    def read_bytes(self, name: str, *, max_bytes: int = SMALL_BYTES) -> bytes:
        """Returns a small object as a whole.

        Raises:
            UnsafeFileError: If it is longer.
        """
        files, path = self._at(name)
        size = self.size(name)
        if size > max_bytes:
            raise too_long(self.locate(name), size, max_bytes)
        if not size:  # No server has a range of it.
            return b""
        # One byte more than it may have: it may have been replaced meanwhile.
        fetch = functools.partial(files.cat_file, path, start=0, end=max_bytes + 1)
        data = bytes(self._try("reading", name, fetch))
        if len(data) > max_bytes:
            raise too_long(self.locate(name), len(data), max_bytes)
        return data

    def read_chunks(self, name: str) -> Iterator[bytes]:
        """Yields the object in pieces, a few of them fetched at a time.

        Raises:
            OSError: If the object was replaced meanwhile.
        """
        files, path = self._at(name)
        info = self._stat(name)
        # All pieces are of one generation; gcsfs up to 2025.12 does not ask for it.
        pinned = {"generation": info["generation"]} if gcs.is_gcs(files) else {}
        size, window = int(info["size"]), CHUNK_BYTES * _NUM_PARALLEL_READS
        for begin in range(0, size, window):
            starts = list(range(begin, min(begin + window, size), CHUNK_BYTES))
            ends = [min(start + CHUNK_BYTES, size) for start in starts]
            fetch = functools.partial(
                _fetch_pieces, files, path, starts=starts, ends=ends, **pinned
            )
            yield from self._try("reading", name, fetch)
        if pinned and self._stat(name)["generation"] != pinned["generation"]:
            raise OSError(f"{self.locate(name)} was replaced while it was read")

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes or replaces an object."""
        files, path = self._at(name)
        self._try("writing", name, lambda: files.pipe_file(path, data))

    def upload(self, name: str, path: str, *, checksum: str | None = None) -> None:
        """Copies the local file `path` to `name` and compares what has arrived.

        On Google Cloud Storage by a conditional request. A large file goes in parts,
        side by side; parts that a killed process has left are used. On other stores by
        a look and a write, between which another may write.

        Raises:
            FileExistsError: If `name` exists with other contents.
            OSError: If the object's length or checksum is not the file's.
        """
        files, target = self._at(name)
        size = os.stat(path).st_size
        expected = _to_base64(checksum or crc32c_of(read_file(path)))
        is_gcs = gcs.is_gcs(files)
        if is_gcs and checksum is not None and self._has(name, size, expected):
            return
        send = self._send if is_gcs else self._put
        attempt = functools.partial(self._try, "uploading", name)
        try:
            attempt(lambda: send(name, path, size=size, expected=expected))
        except FileExistsError:
            # By a request whose answer was lost, or by another process.
            if not self._has(name, size, expected):
                raise
        if is_gcs and size >= gcs_parts.MIN_BYTES:
            parts = gcs_parts.parts_folder(target)
            attempt(lambda: gcs_parts.delete_parts(files, parts))

    def create(self, name: str, data: bytes) -> None:
        """Writes an object that must not exist yet, in one conditional request.

        Raises:
            FileExistsError: If `name` exists with other contents.
        """
        files, path = self._at(name)
        try:
            self._try(
                "creating", name, lambda: files.pipe_file(path, data, mode="create")
            )
        except FileExistsError:
            # A request that succeeded but whose answer was lost is sent again and
            # then finds its own object.
            if self.read_bytes(name) != data:
                raise

    def read_version(self, name: str) -> tuple[bytes, str]:
        """Returns a small object and its generation; elsewhere a digest.

        Raises:
            UnsafeFileError: If it is longer than small ones are.
        """
        files, path = self._at(name)
        if gcs.is_gcs(files):
            size = self.size(name)
            if size > SMALL_BYTES:
                raise too_long(self.locate(name), size, SMALL_BYTES)
            return self._try("reading", name, lambda: gcs.read_version(files, path))
        data = self.read_bytes(name)
        return data, hashlib.sha256(data).hexdigest()

    def replace(self, name: str, data: bytes, *, version: str) -> str:
        """Writes over one version of an object.

        One conditional request on Google Cloud Storage; a look and a write, between
        which another may write, on other stores.

        Raises:
            FileExistsError: If the object is not of that version, or not there.
        """
        files, path = self._at(name)
        if not gcs.is_gcs(files):
            if not self.exists(name):
                raise FileExistsError(f"{self.locate(name)} is gone")
            self._expect(name, version)
            self.write_bytes(name, data)
            return hashlib.sha256(data).hexdigest()
        try:
            return self._try(
                "replacing",
                name,
                lambda: gcs.replace(files, path, data, generation=version),
            )
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                found, generation = self.read_version(name)
                if found == data:  # The answer to our own request was lost.
                    return generation
            raise

    def delete_version(self, name: str, *, version: str) -> None:
        """Deletes one version of an object; one that is not there is no error.

        Raises:
            FileExistsError: If the object is of another version.
        """
        files, path = self._at(name)
        with contextlib.suppress(FileNotFoundError):
            if gcs.is_gcs(files):
                self._try(
                    "deleting",
                    name,
                    lambda: gcs.delete_version(files, path, generation=version),
                )
            else:
                self._expect(name, version)
                self.delete(name)

    def move(self, source: str, target: str) -> None:
        """Copies an object, then deletes the old one."""
        files, path = self._at(source)
        _, new_path = self._at(target)
        self._try("copying", source, lambda: files.cp_file(path, new_path))
        self.delete(source)

    def delete(self, name: str) -> None:
        """Deletes an object; one that is not there is no error."""
        files, path = self._at(name)
        with contextlib.suppress(FileNotFoundError):
            self._try("deleting", name, lambda: files.rm_file(path))

    def exists(self, name: str) -> bool:
        """Returns whether the object exists."""
        # Not `isfile`: to fsspec every error, a lost connection too, means no.
        try:
            return bool(self._stat(name).get("type", "file") == "file")
        except FileNotFoundError:
            return False

    def size(self, name: str) -> int:
        """Returns the object's length in bytes."""
        return int(self._stat(name)["size"])

    def list(self, directory: str) -> list[str]:
        """Returns the names of all objects below `directory`, sorted."""
        files, path = self._at(directory)
        _, root = self._at("")
        found = self._try("listing", directory, lambda: files.find(path))
        names = (name[len(root) :].lstrip("/") for name in found)
        return sorted(name for name in names if not gcs_parts.is_part(name))

    def sync(self, name: str) -> None:
        """Does nothing: an object is durable when its upload returns."""

    def remove_partial_writes(self, directory: str) -> None:
        """Removes the parts of unfinished uploads right below `directory`."""
        files, path = self._at(f"{directory}/{gcs_parts.PARTS}".lstrip("/"))
        if gcs.is_gcs(files):
            delete = functools.partial(gcs_parts.delete_parts, files, path)
            self._try("tidying", directory, delete)

    def remove_dead_writes(self, directory: str) -> None:
        """Does nothing: an upload that is cut off leaves nothing behind."""

    def _try(self, verb: str, name: str, work: Callable[[], _T]) -> _T:
        return self._retry.run(work, what=f"{verb} {self.locate(name)}")

    def _stat(self, name: str) -> Mapping[str, Any]:
        files, path = self._at(name)
        return self._try("looking at", name, lambda: self._info(files, path))

    def _info(self, files: Any, path: str) -> Mapping[str, Any]:
        info = gcs.stat(files, path) if gcs.is_gcs(files) else files.info(path)
        return dict(info)

    def _send(self, name: str, path: str, *, size: int, expected: str) -> None:
        """Creates an object of Google Cloud Storage from a local file.

        Raises:
            FileExistsError: If the object is there already.
            UploadChangedError: If something else has arrived; it is deleted again.
        """
        files, target = self._at(name)
        if size >= gcs_parts.MIN_BYTES:
            made = gcs_parts.upload_in_parts(files, path, target, slots=self._slots)
        else:
            with self._slots, open(path, "rb") as file:
                data = file.read()
                made = gcs.put(files, target, data, ifGenerationMatch=gcs.ABSENT)
        found = int(made["size"]), made["crc32c"]
        if found != (size, expected):
            # Only what this request has made; who was faster may have done so too.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                gcs.delete_version(files, target, generation=made["generation"])
            raise UploadChangedError(
                f"{self.locate(name)} was changed by its upload: {found}"
            )

    def _put(self, name: str, path: str, *, size: int, expected: str) -> None:
        """Writes an object of another store from a local file.

        Raises:
            FileExistsError: If it is there already with other contents.
            OSError: If something else has arrived. It is left, and not tried again: it
                may be another's.
        """
        files, target = self._at(name)
        if self._has(name, size, expected):
            return
        files.put_file(path, target)
        found = self._info(files, target)["size"]
        if found != size:
            raise OSError(
                f"{self.locate(name)} has {found} bytes after the upload of {size}"
            )

    def _has(self, name: str, size: int, expected: str) -> bool:
        """Returns whether an object is there, with the contents that it is to have.

        Raises:
            FileExistsError: If it has others.
        """
        try:
            info = self._stat(name)
        except FileNotFoundError:
            return False
        if info.get("type", "file") != "file":
            return False
        found = info.get("crc32c")
        if found is None and int(info["size"]) == size:
            found = _to_base64(crc32c_of(self.read_chunks(name)))
        if (int(info["size"]), found) != (size, expected):
            raise FileExistsError(
                f"{self.locate(name)} is not what was to be uploaded: another process "
                "has written it"
            )
        return True

    def _expect(self, name: str, version: str) -> None:
        _, found = self.read_version(name)
        if found != version:
            raise FileExistsError(f"{self.locate(name)} is not of version {version}")

    def _at(self, name: str) -> tuple[Any, str]:
        """Returns the file system and the path that it knows `name` by."""
        if self._opened is None:
            # gcsfs caches listings forever by default, and would not see what
            # another process has written.
            files, root = fsspec.core.url_to_fs(
                self._url, use_listings_cache=False, **self._options
            )
            self._opened = files, root.rstrip("/")
        files, root = self._opened
        return files, f"{root}/{name}" if name else root


def _fetch_pieces(
    files: Any, path: str, *, starts: list[int], ends: list[int], **pinned: str
) -> list[bytes]:
    """Fetches pieces of an object side by side."""
    paths = [path] * len(starts)
    pieces = files.cat_ranges(paths, starts, ends, on_error="raise", **pinned)
    for piece in pieces:
        if isinstance(piece, Exception):  # Older versions of fsspec return them.
            raise piece
    return [bytes(piece) for piece in pieces]


def _to_base64(checksum: str) -> str:
    """Returns a crc32c of 8 hexadecimal digits as Google Cloud Storage writes it."""
    return base64.b64encode(bytes.fromhex(checksum)).decode("ascii")
