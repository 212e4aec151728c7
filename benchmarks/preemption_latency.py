"""How long a preemption takes: SIGTERM to exit, and restart to the next step.

    python benchmarks/preemption_latency.py --size-mb 50 --size-mb 725

A training with a state of the given size is supervised. In the middle of it SIGTERM
goes to the program, as on a machine that is preempted: it saves its newest step and
ends with 75, and the supervisor starts it again. Told are the seconds from the signal
to the exit with the state saved (fsynced, verified, committed) and from the exit to the
first step after the restore (imports, restore, first step). `--in-save` sends the
signal right after a save has begun: then two saves have to be written.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TENSOR_BYTES = 1 << 22
STEP_SECS = 0.05


def train(run_dir: str, size_mb: float, saves: bool) -> None:
    """The supervised program: a state of many tensors, changed by each step."""
    import tensorflow as tf

    import resumable_tf as rtf

    count = max(1, round(size_mb * 1e6 / TENSOR_BYTES))
    module = tf.Module()
    module.weights = [tf.Variable(tf.zeros(TENSOR_BYTES // 4)) for _ in range(count)]

    @tf.function
    def step() -> None:
        for weight in module.weights:
            weight.assign_add(tf.ones_like(weight))

    state = rtf.TrainState(module=module)
    log = Path(run_dir) / "times"
    with rtf.Checkpointer(run_dir) as checkpointer, rtf.PreemptionGuard() as guard:
        checkpointer.restore_or_initialize(state)
        while True:
            step()
            state.step += 1
            with log.open("a") as file:
                record = {"pid": os.getpid(), "step": state.step, "time": time.time()}
                file.write(json.dumps(record) + "\n")
            if state.step == 5 or (saves and state.step > 5 and state.step % 50 == 0):
                checkpointer.save(state)
                if saves:
                    (Path(run_dir) / "saving").touch()
            guard.after_step(state, checkpointer)
            time.sleep(STEP_SECS)


def records(run_dir: Path) -> list[dict[str, Any]]:
    """Returns what the program has written of its steps."""
    with contextlib.suppress(FileNotFoundError):
        lines = (run_dir / "times").read_text().splitlines()
        return [json.loads(line) for line in lines]
    return []


def wait_for(run_dir: Path, pid: int | None, num_steps: int) -> dict[str, Any]:
    """Returns the step `num_steps` of a process other than `pid`, once it is there."""
    while True:
        found = [one for one in records(run_dir) if one["pid"] != pid]
        if len(found) >= num_steps:
            return found[num_steps - 1]
        time.sleep(0.005)


def event_time(events: Path, name: str, number: int) -> float:
    """Returns when an event came for the nth time; waits for it."""
    while True:
        lines = events.read_text().splitlines() if events.exists() else []
        times = [one["time"] for one in map(json.loads, lines) if one["event"] == name]
        if len(times) > number:
            return float(times[number])
        time.sleep(0.005)


def measure(size_mb: float, *, in_save: bool) -> tuple[float, float, int]:
    """Returns seconds to the exit, seconds to the next step, and steps done again."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir, events = Path(directory) / "run", Path(directory) / "events"
        run_dir.mkdir()
        program = [sys.executable, __file__, "--train", str(run_dir)]
        program += ["--size-mb", str(size_mb), *(["--in-save"] if in_save else [])]
        command = [sys.executable, "-m", "resumable_tf", "run"]
        supervisor = subprocess.Popen(
            [*command, "--events", str(events), "--", *program],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        try:
            pid = wait_for(run_dir, None, 30)["pid"]
            if in_save:
                (run_dir / "saving").unlink(missing_ok=True)
                while not (run_dir / "saving").exists():
                    time.sleep(0.001)
            sent = time.time()
            os.kill(pid, signal.SIGTERM)
            ended = event_time(events, "ended", 0)
            last = [one for one in records(run_dir) if one["pid"] == pid][-1]
            first = wait_for(run_dir, pid, 1)
        finally:
            supervisor.terminate()
            supervisor.wait()
    return ended - sent, first["time"] - ended, last["step"] + 1 - first["step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=float, action="append")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--in-save", action="store_true")
    parser.add_argument("--train")
    settings = parser.parse_args()
    sizes = settings.size_mb or [50.0, 725.0]
    if settings.train:
        train(settings.train, sizes[0], settings.in_save)
    for size_mb in sizes:
        found = [
            measure(size_mb, in_save=settings.in_save) for _ in range(settings.repeat)
        ]
        exits, restarts, repeated = zip(*found, strict=True)
        print(
            f"{size_mb:g} MB{', in a save' if settings.in_save else ''}: "
            f"SIGTERM to exit {statistics.median(exits):.2f} s "
            f"({min(exits):.2f}-{max(exits):.2f}), "
            f"exit to next step {statistics.median(restarts):.2f} s "
            f"({min(restarts):.2f}-{max(restarts):.2f}), "
            f"steps done again {max(repeated)}, {settings.repeat} times"
        )


if __name__ == "__main__":
    main()
