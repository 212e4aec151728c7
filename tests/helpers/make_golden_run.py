"""Writes the golden run directory anew: `make golden-run`.

To be done when the format changes, before its first release; afterwards a released
format keeps its directory, and this one gets a neighbour.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from helpers.golden_run import (
    CONTINUED,
    LAST_STEP,
    RUN,
    SAVED_STEPS,
    checkpointer,
    golden_state,
    train,
    values,
)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        state, run_dir = golden_state(), Path(scratch, "run")
        with checkpointer(run_dir) as saver:
            saver.restore_or_initialize(state)
            train(state, saver, SAVED_STEPS[-1])
        shutil.rmtree(RUN, ignore_errors=True)
        shutil.copytree(run_dir, RUN)
        with checkpointer(run_dir) as saver:
            train(state, saver, LAST_STEP)
    CONTINUED.write_text(json.dumps(values(state), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
