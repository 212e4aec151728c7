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
PLAN = "crash@4 kill@7 hang@14"


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
            "DONE": str(directory),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def events(directory: Path) -> list[dict[str, Any]]:
    path = directory / "events"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def has_come_back(begun: list[int], told: list[int]) -> bool:
    """Returns whether the newest start, which is not the first, makes steps."""
    return begun[-1:] == told[-1:] and len(begun) > len(PLAN.split())


@pytest.mark.proof
@pytest.mark.crash
def test_a_supervised_training_ends_bit_for_bit_as_one_that_nothing_happened_to(
    tmp_path: Path,
) -> None:
    corpus = write_corpus(tmp_path / "corpus.tsv")
    flags = {"save_every_steps": 2, "steps_per_call": 1, "stop_step": 40}
    args = train_args(tmp_path / "run", corpus, **flags)
    (tmp_path / "slow").touch()
    with start(tmp_path, args) as process:
        while process.poll() is None:
            begun = [one["start"] for one in events(tmp_path) if "pid" in one]
            told = [one["start"] for one in events(tmp_path) if "secs" in one]
            if (tmp_path / PLAN.split()[-1]).exists() and has_come_back(begun, told):
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.05)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 75, errors
    (tmp_path / "slow").unlink()
    with start(tmp_path, args) as process:
        process.communicate(timeout=300)
    assert process.returncode == 0
    ends = [one["how"] for one in events(tmp_path) if one["event"] == "ended"]
    # On a busy machine a slow step may be taken for a hang, which must cost nothing.
    planned = {"crashed with exit code 1", "killed by SIGKILL", "hung", "preempted"}
    assert planned <= set(ends)
    assert ends[-1] == "finished"
    assert "in never_comes" in errors
    whole = train_args(tmp_path / "whole", corpus, **flags)
    assert run_training(whole).returncode == 0
    assert assert_same_run(tmp_path / "run", tmp_path / "whole") > 14
