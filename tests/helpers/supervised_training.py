"""Run as a program: the real training script, which ends as its plan says.

    PLAN="crash@4 kill@7 hang@12 slow done" STARTS=FILE python supervised_training.py

Start n follows word n: `crash@STEP` raises an error after that step, before it is
saved, `kill@STEP` is SIGKILL, `hang@STEP` makes slow steps up to it and then none,
`slow` makes slow steps only, `done` does nothing to the training.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from helpers.train_and_die import load_script, train

SLOW_STEP_SECS = 0.4


def follow(what: str, at: int) -> None:
    """Makes the training end as it is to."""
    from resumable_tf.training import hooks

    original = hooks.LogMetrics.__call__

    def call_and_act(self: Any, state: Any, result: Any) -> None:
        original(self, state, result)
        if what in ("hang", "slow"):
            time.sleep(SLOW_STEP_SECS)
        if what in ("done", "slow") or state.step < at:
            return
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "crash":
            raise RuntimeError("planned")
        never_comes()

    hooks.LogMetrics.__call__ = call_and_act  # type: ignore[method-assign]


def never_comes() -> None:
    """Waits for nothing."""
    while True:
        time.sleep(1)


if __name__ == "__main__":
    starts = Path(os.environ["STARTS"])
    number = len(starts.read_text()) if starts.exists() else 0
    starts.write_text("x" * (number + 1))
    plan = os.environ["PLAN"].split()
    word, _, step = plan[min(number, len(plan) - 1)].partition("@")
    script = load_script()
    follow(word, int(step or 0))
    train(script)
