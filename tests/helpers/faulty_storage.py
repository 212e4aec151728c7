"""A storage that fails on purpose.

    FaultyStorage(storage, fail_at=7, mode="kill")

Every call of the wrapped storage that does something counts as one operation, from 0;
after `watch_data_files(storage)` so do the making of a bundle's data file, and each
write to it, in this process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from resumable_tf.checkpoint import direct_bundle
from resumable_tf.storage import Storage
from resumable_tf.storage.direct_file import DirectFile


class FaultyStorage:
    """Wraps a storage; operation `fail_at` fails.

    Modes: "raise" raises OSError instead of the operation (with `number`, a certain
    one; with `num_faults`, at so many operations in a row), "kill" ends the process
    with SIGKILL instead of it, "truncate" cuts what is written in half, or the file
    that is synchronised, as a disk that loses it and says nothing; "delay" waits
    for `delay_secs` first, "term" sends this process SIGTERM first, and SIGKILL at the
    operation `number` later, if that is given.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        fail_at: int,
        mode: str = "raise",
        delay_secs: float = 0.0,
        number: int | None = None,
        num_faults: int = 1,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if mode not in {"raise", "kill", "truncate", "delay", "term"}:
            raise ValueError(mode)
        self._storage = storage
        self._fail_at = fail_at
        self._mode = mode
        self._delay_secs = delay_secs
        is_killed = mode == "term" and number is not None
        self._kill_at = fail_at + number if is_killed else None
        self._sleep = sleep
        self._number = number
        self._num_faults = num_faults
        self.log: list[str] = []
        self.cut: list[str] = []
        """Files that were cut off when they had been written, not while."""

    @property
    def root(self) -> str:
        return self._storage.root

    def locate(self, name: str) -> str:
        return self._storage.locate(name)

    def local_path(self, name: str) -> str | None:
        return self._storage.local_path(name)

    def make_dirs(self, directory: str) -> None:
        self._operate("make_dirs", directory)
        self._storage.make_dirs(directory)

    def read_bytes(self, name: str, **limit: int) -> bytes:
        self._operate("read", name)
        return self._storage.read_bytes(name, **limit)

    def read_chunks(self, name: str) -> Iterator[bytes]:
        self._operate("read", name)
        yield from self._storage.read_chunks(name)

    def write_bytes(self, name: str, data: bytes) -> None:
        is_cut = self._operate("write", name)
        self._storage.write_bytes(name, data[: len(data) // 2] if is_cut else data)

    def upload(self, name: str, path: str, *, checksum: str | None = None) -> None:
        is_cut = self._operate("upload", name)
        self._storage.upload(name, path, checksum=checksum)
        if is_cut:
            data = self._storage.read_bytes(name)
            self._storage.write_bytes(name, data[: len(data) // 2])

    def create(self, name: str, data: bytes) -> None:
        is_cut = self._operate("create", name)
        self._storage.create(name, data[: len(data) // 2] if is_cut else data)

    def read_version(self, name: str) -> tuple[bytes, str]:
        self._operate("read_version", name)
        return self._storage.read_version(name)

    def replace(self, name: str, data: bytes, *, version: str) -> str:
        is_cut = self._operate("replace", name)
        data = data[: len(data) // 2] if is_cut else data
        return self._storage.replace(name, data, version=version)

    def delete_version(self, name: str, *, version: str) -> None:
        self._operate("delete_version", name)
        self._storage.delete_version(name, version=version)

    def move(self, source: str, target: str) -> None:
        self._operate("move", source)
        self._storage.move(source, target)

    def delete(self, name: str) -> None:
        self._operate("delete", name)
        self._storage.delete(name)

    def exists(self, name: str) -> bool:
        self._operate("exists", name)
        return self._storage.exists(name)

    def size(self, name: str) -> int:
        self._operate("size", name)
        return self._storage.size(name)

    def list(self, directory: str) -> Any:
        self._operate("list", directory)
        return self._storage.list(directory)

    def sync(self, name: str) -> None:
        is_cut = self._operate("sync", name)
        self._storage.sync(name)
        path = self._storage.local_path(name)
        if is_cut and path is not None and os.path.isfile(path):
            self.cut.append(name)
            os.truncate(path, os.path.getsize(path) // 2)

    def remove_partial_writes(self, directory: str) -> None:
        self._operate("remove_partial_writes", directory)
        self._storage.remove_partial_writes(directory)

    def remove_dead_writes(self, directory: str) -> None:
        self._operate("remove_dead_writes", directory)
        self._storage.remove_dead_writes(directory)

    def repair(self) -> None:
        """Lets all further operations succeed."""
        self._num_faults = 0

    def _operate(self, kind: str, name: str) -> bool:
        """Counts an operation; returns whether it is to be cut off."""
        begin = self._fail_at
        is_due = begin <= len(self.log) < begin + self._num_faults
        if len(self.log) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.log.append(f"{kind} {name}")
        if not is_due:
            return False
        if self._mode == "raise":
            if self._number is not None:
                raise OSError(self._number, os.strerror(self._number), name)
            raise OSError(f"injected: {kind} {name}")
        if self._mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._mode == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        if self._mode == "delay":
            self._sleep(self._delay_secs)
        return self._mode == "truncate"


def watch_data_files(storage: FaultyStorage) -> None:
    """Makes what is done to a bundle's data files operations of a storage."""

    class Watched(DirectFile):
        def __init__(self, path: str, *, bypasses_cache: bool) -> None:
            storage._operate("open", path)
            super().__init__(path, bypasses_cache=bypasses_cache)

        def _pwrite(self, data: memoryview) -> int:
            storage._operate("pwrite", self._path)
            return super()._pwrite(data)

        def _end(self) -> None:
            super()._end()
            storage._operate("close", self._path)

    direct_bundle.DirectFile = Watched  # type: ignore[misc]
