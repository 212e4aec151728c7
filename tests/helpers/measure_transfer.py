"""Run as a program: uploads and reads a file; prints how much memory that took.

python -m helpers.measure_transfer gs://bucket/run FILE
"""

from __future__ import annotations

import resource
import sys

from resumable_tf.storage import open_storage


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    storage = open_storage(sys.argv[1])
    storage.write_bytes("small", b"1")  # Connects, and imports what that needs.
    storage.read_bytes("small")
    before = peak_bytes()
    storage.upload("large", sys.argv[2])
    size = sum(map(len, storage.read_chunks("large")))
    print(size, peak_bytes() - before)


if __name__ == "__main__":
    main()
