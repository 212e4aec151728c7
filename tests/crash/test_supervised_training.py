"""A supervised training that crashes, is killed, hangs and is stopped ends exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import ROOT, assert_same_run, run_training, train_args, write_corpus

PROGRAM = ROOT / "tests" / "helpers" / "supervised_training.py"
PLAN = "crash@4 kill@7 hang@14 slow done"


def start(directory: Path, args: list[str]) -> subprocess.Popen[str]:
    """Starts `resumable-tf run` on the training."""
    flags = ("--hang-min-secs=12", "--hang-factor=3", "--stop-secs=20")
    flags += ("--max-fruitless=9", "--first-delay-secs=0.1")
    command = [sys.executable, "-m", "resumable_tf", "run", *flags]
    command += ["--events", str(directory / "events"), "--"]
    return subprocess.Popen(
        [*command, sys.executable, str(PROGRAM), *args],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "PLAN": PLAN,
            "STARTS": str(directory / "starts"),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def events(directory: Path) -> list[dict[str, Any]]:
    path = directory / "events"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.crash
def test_a_supervised_training_ends_bit_for_bit_as_one_that_nothing_happened_to(
    tmp_path: Path,
) -> None:
    corpus = write_corpus(tmp_path / "corpus.tsv")
    flags = {"save_every_steps": 2, "steps_per_call": 1, "stop_step": 40}
    args = train_args(tmp_path / "run", corpus, **flags)
    with start(tmp_path, args) as process:
        while process.poll() is None:
            started = [one for one in events(tmp_path) if one["event"] == "heartbeat"]
            if started and (tmp_path / "starts").read_text() == "xxxx":
                if started[-1]["start"] == 4:
                    process.send_signal(signal.SIGTERM)
                    break
            time.sleep(0.05)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 75, errors
    with start(tmp_path, args) as process:
        process.communicate(timeout=300)
    assert process.returncode == 0
    ends = [one["how"] for one in events(tmp_path) if one["event"] == "ended"]
    assert ends == [
        "crashed with exit code 1",
        "killed by SIGKILL",
        "hung",
        "preempted",
        "finished",
    ]
    assert "in never_comes" in errors
    whole = train_args(tmp_path / "whole", corpus, **flags)
    assert run_training(whole).returncode == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
