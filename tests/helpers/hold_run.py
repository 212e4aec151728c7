"""Run as a program: holds a run directory and saves when it is told to.

    python -m helpers.hold_run URL --ttl 2

Reads one command a line, answers each with one line: "save" advances by a step, saves
and says "saved STEP" or "failed CLASS: MESSAGE"; "close" gives the run back.
"""

from __future__ import annotations

import argparse
import sys

from helpers.small_state import SIZE, advance, small_state

from resumable_tf.checkpoint import Checkpointer, lease
from resumable_tf.errors import ResumableError
from resumable_tf.storage import gcs_parts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--ttl", type=float, default=2.0)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--part-bytes", type=int, default=gcs_parts.MIN_BYTES)
    settings = parser.parse_args()
    lease.TTL_SECS = settings.ttl
    gcs_parts.MIN_BYTES = gcs_parts._PART_BYTES = settings.part_bytes
    state = small_state(size=settings.size)
    checkpointer = Checkpointer(settings.url)
    try:
        checkpointer.restore_or_initialize(state)
    except ResumableError as error:
        print(f"refused {type(error).__name__}: {error}".replace("\n", " "), flush=True)
        return
    print(f"holds {state.step}", flush=True)
    for line in sys.stdin:
        answer = "closed"
        try:
            if line.strip() == "save":
                advance(state)
                checkpointer.save(state).result()
                answer = f"saved {state.step}"
            else:
                checkpointer.close()
        except ResumableError as error:
            cause = error.__cause__ or error
            answer = f"failed {type(cause).__name__}: {cause}".replace("\n", " ")
        print(answer, flush=True)


if __name__ == "__main__":
    main()
