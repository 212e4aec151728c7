"""Who resumes Keras programs exactly? Three ways, really killed and started again.

    python benchmarks/resume_exactness.py
    python benchmarks/resume_exactness.py --programs mlp gan --kills 5 6 --kills 1

Each program of `tests/helpers/keras_programs.py` trains once without interruption, and
once for each way and plan of kills in processes that SIGKILL ends after so many
batches, until one ends by itself. Compared are all variables and the history, bit for
bit, and how many batches were trained in all.

- `Checkpoint`: `tf.train.Checkpoint(model=, optimizer=)` saved every 3 batches through
  a `CheckpointManager`, restored before `fit`, which begins with the step's epoch.
- `BackupAndRestore`: Keras' own callback, saving every 3 batches.
- `ResumeCallback`: this project's, saving every 3 batches.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
WAYS = ("Checkpoint", "BackupAndRestore", "ResumeCallback")
EVERY, PAUSE_SECS = 3, 0.2
# In two epochs; early and late; by an epoch's end; at the first batch, before any save.
PLANS = [[5, 6], [2, 9], [10], [1]]


def plain_checkpoint(program: Any, run_dir: str) -> tuple[list[Any], dict[str, Any]]:
    """Returns what a user of TensorFlow's checkpoints writes around `fit`."""
    import tensorflow as tf

    model = program.model
    step = tf.Variable(0, dtype=tf.int64)
    parts = {"model": model, "step": step}
    if getattr(model, "optimizer", None) is not None:
        parts["optimizer"] = model.optimizer
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(**parts), f"{run_dir}/plain", max_to_keep=2
    )
    manager.restore_or_initialize()

    def save(batch: int, logs: Any = None) -> None:
        step.assign_add(1)
        if int(step) % EVERY == 0:
            manager.save(checkpoint_number=int(step))

    callback = tf.keras.callbacks.LambdaCallback(on_batch_end=save)
    per_epoch = program.arguments.get("steps_per_epoch") or len_of(program.arguments)
    return [callback], {"initial_epoch": int(step) // per_epoch}


def len_of(arguments: dict[str, Any]) -> int:
    """Returns the batches of an epoch."""
    x = arguments["x"]
    if hasattr(x, "cardinality"):
        return int(x.cardinality())
    return -(-len(x) // arguments["batch_size"])


def work(args: argparse.Namespace) -> None:
    """Trains one program in one way; the worker process."""
    import tensorflow as tf
    from helpers import keras_programs as programs

    import resumable_tf as rtf

    tf.config.experimental.enable_op_determinism()
    os.makedirs(args.run_dir, exist_ok=True)
    program = programs.build(args.worker)
    more: dict[str, Any] = {}
    if args.way == "Checkpoint":
        callbacks, more = plain_checkpoint(program, args.run_dir)
    elif args.way == "BackupAndRestore":
        backup = tf.keras.callbacks.BackupAndRestore(
            f"{args.run_dir}/backup", save_freq=EVERY, delete_checkpoint=False
        )
        callbacks = [backup]
    elif args.way == "ResumeCallback":
        callbacks = [rtf.ResumeCallback(args.run_dir, save_every_steps=EVERY)]
    else:
        callbacks = []
    # As long as a real step, so that a save is written before the kill.
    path, pause = f"{args.run_dir}/batches", PAUSE_SECS
    callbacks.append(programs.count_batches(path, args.kill_at, pause_secs=pause))
    history = program.model.fit(
        **program.arguments,
        **more,
        callbacks=[*program.callbacks, *callbacks],
        verbose=0,
    )
    result = programs.result_of(program.model, history)
    np.savez(f"{args.run_dir}/result.npz", **result)


def start(program: str, way: str, run_dir: str, kill_at: int | None) -> str:
    """Runs one worker; returns "killed", "ended" or how it failed."""
    command = [sys.executable, __file__, "--worker", program, "--way", way]
    command += ["--run-dir", run_dir]
    command += ["--kill-at", str(kill_at)] if kill_at else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == -signal.SIGKILL:
        return "killed"
    if done.returncode == 0:
        return "ended"
    return done.stderr.strip().splitlines()[-1][:60]


def trained_batches(run_dir: str) -> int:
    return Path(run_dir, "batches").stat().st_size


def compare(program: str, way: str, directory: str, kills: list[int]) -> list[str]:
    """Returns the cells of one way: exact or not, and extra or lost batches."""
    plan = "-".join(map(str, kills))
    whole = f"{directory}/{program}-whole"
    run_dir = f"{directory}/{program}-{way}-{plan}"
    for kill_at in [*kills, None]:
        outcome = start(program, way, run_dir, kill_at)
        if outcome not in ("killed", "ended"):
            return ["fails", outcome]
        if outcome == "ended":
            break
    one, other = (np.load(f"{path}/result.npz") for path in (whole, run_dir))
    keys = sorted(set(one.files) | set(other.files))
    differing = [
        key
        for key in keys
        if key not in one.files
        or key not in other.files
        or not np.array_equal(one[key], other[key], equal_nan=True)
    ]
    # What is between the last save and a kill has to be trained again, by anyone.
    extra = trained_batches(run_dir) - trained_batches(whole)
    verdict = "yes" if not differing else f"no ({len(differing)} of {len(keys)})"
    return [verdict, f"{extra:+d}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", nargs="*")
    parser.add_argument(
        "--kills", nargs="+", type=int, action="append", help="one plan; repeatable"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--way", default="", help=argparse.SUPPRESS)
    parser.add_argument("--run-dir", help=argparse.SUPPRESS)
    parser.add_argument("--kill-at", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if args.worker:
        work(args)
        return
    from helpers.keras_programs import PROGRAMS

    report(args.programs or list(PROGRAMS), args.kills or PLANS)


def report(programs: list[str], plans: list[list[int]]) -> None:
    """Runs all, and prints a table for each plan of kills."""
    columns = [cell for way in WAYS for cell in (way, "batches")]
    tables = [Table("program", *columns, title=f"killed after {p}") for p in plans]
    console = Console(width=130)
    with tempfile.TemporaryDirectory() as directory:
        for program in programs:
            start(program, "none", f"{directory}/{program}-whole", None)
            for plan, table in zip(plans, tables, strict=True):
                cells = [compare(program, way, directory, plan) for way in WAYS]
                table.add_row(program, *[cell for pair in cells for cell in pair])
                console.print(program, plan, *cells)
    for table in tables:
        console.print(table)
    console.print(
        f"Killed after so many batches of a start; saves every {EVERY}. Exact: equal "
        "in all variables and the history. Batches: trained more (+) or fewer (-) "
        "than without a kill."
    )


if __name__ == "__main__":
    main()
