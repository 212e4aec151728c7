"""Runs the real training script; kills its own process after a given step.

The kill comes from a hook of the loop, when the step is done and not yet saved:
`KILL_AFTER_STEP=17 python train_and_die.py <flags of train_translation.py>`.
"""

from __future__ import annotations

import os
import runpy
import signal
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_translation.py"


def _kill_after(step: int) -> None:
    from resumable_tf.training import hooks

    original = hooks.LogMetrics.__call__

    def call_or_die(self, state, result):  # type: ignore[no-untyped-def]
        original(self, state, result)
        if state.step >= step:
            os.kill(os.getpid(), signal.SIGKILL)

    hooks.LogMetrics.__call__ = call_or_die  # type: ignore[method-assign]


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "KILL_AFTER_STEP" in os.environ:
        _kill_after(int(os.environ["KILL_AFTER_STEP"]))
    runpy.run_path(str(SCRIPT), run_name="__main__")
