"""Prepares records and kills its own process at one of the file writes.

    python prepare_and_die.py SOURCE DIRECTORY WRITES_BEFORE_DEATH

Started by a test: a real SIGKILL, with half of the next file written.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from helpers.settings import SETTINGS

from resumable_tf.data import prepare
from resumable_tf.storage import LocalStorage


def main() -> None:
    """Prepares `sys.argv[1]` and dies."""
    source, directory, num_writes = sys.argv[1:]
    left = int(num_writes)
    write_bytes = LocalStorage.write_bytes

    def write_or_die(self: LocalStorage, name: str, data: bytes) -> None:
        nonlocal left
        if left == 0:
            Path(self.locate(name)).write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        write_bytes(self, name, data)

    LocalStorage.write_bytes = write_or_die  # type: ignore[method-assign]
    prepare.prepare_records(source, directory, settings=SETTINGS)


if __name__ == "__main__":
    main()
