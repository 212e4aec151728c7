"""Trains and saves on a file system that is full for a while; prints what it saw.

python -m helpers.full_disk MOUNT_POINT      # with room for one checkpoint, not for two
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer, SaveOptions

SIZE = 250_000  # A checkpoint of 1 MB.


def main(mount_point: str) -> None:
    run_dir, filler = f"{mount_point}/run", f"{mount_point}/filler"
    seen: dict[str, Any] = {}
    state = small_state(size=SIZE)
    options = SaveOptions(asynchronous=False, on_storage_error="continue")
    with Checkpointer(
        run_dir, every_steps=1, keep_last=1, options=options
    ) as checkpointer:
        advance(state)
        checkpointer.maybe_save(state)
        with open(filler, "wb") as file:
            file.write(b"\0" * (os.statvfs(mount_point).f_bavail * 4096 - SIZE * 3))
        free_bytes = _free_bytes(mount_point)
        for _ in range(3):
            advance(state)
            checkpointer.maybe_save(state)
        seen["count"] = checkpointer.failures.count
        seen["status"] = checkpointer.failures.status
        # Nothing that a failed save has written takes space away from others.
        seen["lost_bytes"] = free_bytes - _free_bytes(mount_point)
        restored = small_state(size=SIZE)
        Checkpointer(run_dir).restore(restored)
        assert_at_step(restored, 1)
        os.remove(filler)
        advance(state)
        checkpointer.maybe_save(state)
        seen["count_in_the_end"] = checkpointer.failures.count
    restored = small_state(size=SIZE)
    Checkpointer(run_dir).restore(restored)
    assert_at_step(restored, 5)
    print(json.dumps(seen))


def _free_bytes(mount_point: str) -> int:
    status = os.statvfs(mount_point)
    return status.f_bavail * status.f_frsize


if __name__ == "__main__":
    main(sys.argv[1])
