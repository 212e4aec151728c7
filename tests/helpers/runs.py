"""Real training processes for the resume and crash tests, and what they left."""

from __future__ import annotations

import atexit
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from helpers.fork_server import ForkServer
from helpers.starts import assert_continued, keep_notes

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("train_and_die.py")

keep_notes()
SERVER = ForkServer()
atexit.register(SERVER.close)

_WORDS = (
    "the a red blue old new house tree dog cat sees opens finds has big small".split()
)


def write_corpus(path: Path, *, num_pairs: int = 400, seed: int = 7) -> Path:
    """Writes a small tab-separated corpus of made-up sentences."""
    generator = random.Random(seed)
    lines = []
    for number in range(num_pairs):
        words = generator.choices(_WORDS, k=generator.randint(3, 9))
        german = [word[::-1] for word in words]
        lines.append(f"{' '.join(words)} {number}\t{' '.join(german)} {number}\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def train_args(run_dir: Path | str, corpus: Path, **flags: object) -> list[str]:
    """Returns the flags of a small training on `corpus`."""
    settings: dict[str, object] = {
        "preset": "tiny",
        "run-dir": run_dir,
        "records": corpus.parent / "records",
        "data": f"tsv:{corpus}",
        "row-length": 32,
        "vocab-size": 150,
        "batch-size": 8,
        "dropout-rate": 0.1,
        "stop-step": 24,
        "save-every-steps": 4,
        "steps-per-call": 4,
        "eval-every-steps": 12,
        "log-every-steps": 3,
        "keep-last": 2,
        **{name.replace("_", "-"): value for name, value in flags.items()},
    }
    return [
        part for name, value in settings.items() for part in (f"--{name}", str(value))
    ]


def run_training(
    args: list[str], *, kill_after_step: int | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs the training script in a process of its own, forked from a server.

    Args:
        args: Flags of `scripts/train_translation.py`.
        kill_after_step: The process kills itself with SIGKILL once it has completed
            this many steps, before it can save them, and once a save that was due
            before is committed.
        **env: Additional environment variables.
    """
    if kill_after_step is not None:
        env["KILL_AFTER_STEP"] = str(kill_after_step)
    return SERVER.run(args, env=env, timeout_secs=300)


def start_training(args: list[str], **env: str) -> subprocess.Popen[str]:
    """Starts the training script and returns at once."""
    return subprocess.Popen(
        [sys.executable, str(DRIVER), *args],
        env={**os.environ, **env},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def final_tensors(run_dir: Path) -> dict[str, np.ndarray]:
    """Reads every tensor of the newest checkpoint with TensorFlow alone."""
    import tensorflow as tf

    path = tf.train.latest_checkpoint(str(run_dir / "checkpoints"))
    reader = tf.train.load_checkpoint(path)
    return {
        key: reader.get_tensor(key)
        for key in reader.get_variable_to_shape_map()
        if key != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


def metric_lines(run_dir: Path, name: str) -> list[dict[str, float]]:
    """Reads `metrics/<name>.jsonl`."""
    text = (run_dir / "metrics" / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def event_lines(run_dir: Path, name: str) -> list[tuple[int, float]]:
    """Reads steps and losses of `metrics/<name>/` as TensorBoard does."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(run_dir / "metrics" / name),
        size_guidance={"scalars": 0},
        purge_orphaned_data=False,
    )
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


def assert_same_run(
    run_dir: Path, reference: Path, *, started_as: str | None = None
) -> int:
    """Asserts that a run went on from a checkpoint and ended as one without a break.

    Args:
        run_dir: What was interrupted.
        reference: What was not.
        started_as: The run directory that the training was given, if another.

    Returns:
        The step that the last start went on from.
    """
    begun_at = assert_continued(started_as or run_dir)
    assert_equal_runs(run_dir, reference)
    return begun_at


def assert_equal_runs(run_dir: Path, reference: Path) -> None:
    """Asserts that two runs ended bit for bit alike: state, losses, evaluation.

    That proves nothing about a resume, since one that starts over ends alike too.
    """
    ours, theirs = final_tensors(run_dir), final_tensors(reference)
    assert sorted(ours) == sorted(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, err_msg=key)
    for name in ("train", "eval"):
        lines = metric_lines(reference, name)
        assert metric_lines(run_dir, name) == lines
        losses = [(line["step"], float(np.float32(line["loss"]))) for line in lines]
        assert event_lines(run_dir, name) == losses
