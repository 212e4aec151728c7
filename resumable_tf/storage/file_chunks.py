"""A local file in pieces, and the checksum of pieces.

crc32c_of(read_file("/tmp/ckpt-7.index"))        # "1c291ca3"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import google_crc32c

from resumable_tf.storage.protocol import CHUNK_BYTES


def read_file(path: str) -> Iterator[bytes]:
    """Yields the contents of a local file.

    Raises:
        OSError: If it can't be read.
    """
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def crc32c_of(chunks: Iterable[bytes]) -> str:
    """Returns the crc32c of pieces together, 8 hexadecimal digits."""
    checksum = 0
    for chunk in chunks:
        checksum = google_crc32c.extend(checksum, chunk)
    return f"{checksum:08x}"
