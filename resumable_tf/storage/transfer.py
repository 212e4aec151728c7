"""Several files up or down at the same time.

    upload_files(storage, [Upload("checkpoints/a", "/tmp/a", crc32c), ...])
    in_parallel(fetch, names)

Memory stays bounded: a file is moved in pieces, few files at a time.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from resumable_tf.storage.protocol import Storage

NUM_PARALLEL_FILES = 4
_T = TypeVar("_T")


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


def in_parallel(work: Callable[[_T], None], items: Iterable[_T]) -> None:
    """Calls `work` with each item, a few at a time; what one call raises is raised.

    The others are let end first, but none that has not begun is started.
    """
    items = list(items)
    if len(items) < 2:
        for item in items:
            work(item)
        return
    num_threads = min(NUM_PARALLEL_FILES, len(items))
    with concurrent.futures.ThreadPoolExecutor(num_threads, "transfer") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
