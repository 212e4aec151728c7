"""Run as a program: the real training script, which ends as its plan says.

    PLAN="crash@4 kill@7 hang@14" DONE=DIRECTORY python supervised_training.py FLAGS

Each word happens once, when its step is reached; `DIRECTORY/WORD` remembers it.
`crash@STEP` raises an error after that step, unsaved, `kill@STEP` is SIGKILL,
`hang@STEP` makes slow steps up to it and then none. Without a word left, steps are slow
while `DIRECTORY/slow` exists.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from helpers.train_and_die import load_script, train

SLOW_STEP_SECS = 0.4


def follow(plan: list[str], done: Path) -> None:
    """Makes the training end as it is to."""
    from resumable_tf.training import hooks

    original = hooks.LogMetrics.__call__

    def call_and_act(self: Any, state: Any, result: Any) -> None:
        original(self, state, result)
        left = [word for word in plan if not (done / word).exists()]
        what, _, at = (left or ["slow@0"])[0].partition("@")
        if what == "hang" or (done / "slow").exists():
            time.sleep(SLOW_STEP_SECS)
        if not left or state.step < int(at):
            return
        (done / left[0]).touch()
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
    script = load_script()
    follow(os.environ["PLAN"].split(), Path(os.environ["DONE"]))
    train(script)
