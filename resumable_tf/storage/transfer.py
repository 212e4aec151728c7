"""Several files up or down at the same time.

    upload_files(storage, [Upload("checkpoints/a", "/tmp/a", crc32c), ...])
    in_parallel(fetch, names)

Memory stays bounded: a file is moved in pieces, few files at a time.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from resumable_tf.storage.protocol import Storage

NUM_PARALLEL_FILES = 4
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclasses.dataclass(frozen=True)
class Upload:
    """One file to upload.

    Attributes:
        name: Its name in the storage.
        path: Of the local file.
        checksum: Its crc32c, 8 hexadecimal digits; None if it is not known.
    """

    name: str
    path: str
    checksum: str | None = None


def upload_files(storage: Storage, uploads: Sequence[Upload]) -> None:
    """Uploads files, a few side by side; what one raises is raised."""

    def upload(one: Upload) -> None:
        storage.upload(one.name, one.path, checksum=one.checksum)

    in_parallel(upload, uploads)


def in_parallel(
    work: Callable[[_T], _R],
    items: Iterable[_T],
    *,
    num_threads: int = NUM_PARALLEL_FILES,
) -> list[_R]:
    """Calls `work` with each item, a few at a time; returns the results in order.

    The first failure is raised: the other calls are let end before, but none that has
    not begun is started. The calling thread takes part: no pool, which Python refuses
    while it exits and a save may still be under way.
    """
    entries = list(items)
    todo = iter(enumerate(entries))
    lock = threading.Lock()  # Guards `todo`.
    results: dict[int, _R] = {}
    errors: list[BaseException] = []

    def run() -> None:
        while not errors:
            with lock:
                entry = next(todo, None)
            if entry is None:
                return
            try:
                results[entry[0]] = work(entry[1])
            except BaseException as error:  # noqa: BLE001  raised below
                errors.append(error)

    threads = []
    for _ in range(min(num_threads, len(entries)) - 1):
        thread = threading.Thread(target=run, name="transfer")
        try:
            thread.start()
        except RuntimeError:  # Python 3.12 starts none while it exits.
            break
        threads.append(thread)
    run()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(entries))]
