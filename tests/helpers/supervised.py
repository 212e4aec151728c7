"""Run as a program: a training of a few steps that ends as its plan says.

    python -m helpers.supervised DIRECTORY 75@3 9@5 hang@7 done

Start n follows word n of the plan: `CODE@STEP` exits at that step, `-SIGNAL@STEP` kills
itself, `hang@STEP` makes no step any more, `deaf@STEP` hangs and ignores SIGTERM,
`wait@STEP` waits for SIGTERM, `slow@STEP` needs long to save then, `done` goes to the
end. Its checkpoint is the number in `DIRECTORY/step`; every step is a line of
`DIRECTORY/steps`. No TensorFlow: a start takes a tenth of a second.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from resumable_tf.supervising.heartbeat import HEARTBEAT_VARIABLE, Heartbeat

NUM_STEPS = 12
STEP_SECS = 0.01


class Training:
    """The program."""

    def __init__(self, directory: Path, plan: list[str]) -> None:
        self.directory = directory
        starts = directory / "starts"
        number = len(starts.read_text()) if starts.exists() else 0
        starts.write_text("x" * (number + 1))
        self.what, _, at = plan[min(number, len(plan) - 1)].partition("@")
        self.at = int(at or NUM_STEPS + 1)
        self.is_asked = False
        signal.signal(signal.SIGTERM, self.ask)
        signal.signal(signal.SIGINT, self.ask)
        path = os.environ.get(HEARTBEAT_VARIABLE)
        has_heartbeat = "SILENT" not in os.environ
        self.heartbeat = Heartbeat(path if has_heartbeat else None, every_secs=0.0)

    def ask(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        self.is_asked = True

    def run(self) -> int:
        checkpoint = self.directory / "step"
        step = int(checkpoint.read_text()) if checkpoint.exists() else 0
        self.heartbeat.start()
        while step < NUM_STEPS:
            if step >= self.at:
                self.act()
            if self.is_asked:
                if self.what == "slow":
                    self.say("saving")
                    time.sleep(60)
                return 75
            time.sleep(STEP_SECS)
            step += 1
            with (self.directory / "steps").open("a") as file:
                file.write(f"{step}\n")
            checkpoint.write_text(str(step))
            self.heartbeat.beat(step)
        return 0

    def act(self) -> None:
        if self.what == "helper":
            helper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)
            (self.directory / "helper").write_text(str(helper.pid))
            os._exit(1)
        if self.what in ("hang", "deaf"):
            if self.what == "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.wait_for_a_lost_partner()
            return
        if self.what in ("wait", "slow"):
            self.say("waiting")
            while not self.is_asked:
                time.sleep(0.01)
            return
        code = int(self.what)
        if code < 0:
            os.kill(os.getpid(), -code)
        os._exit(code)

    def wait_for_a_lost_partner(self) -> None:
        while not self.is_asked:
            time.sleep(0.01)

    def say(self, word: str) -> None:
        (self.directory / word).touch()


if __name__ == "__main__":
    sys.exit(Training(Path(sys.argv[1]), sys.argv[2:]).run())
