"""A host of a pod dies: the client ends, and is started again from its checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.pod import STOP_STEP
from helpers.small_state import assert_at_step, small_state
from helpers.workers import free_ports

from resumable_tf.checkpoint import Checkpointer

ROOT = Path(__file__).resolve().parents[2]


def start(*command: str, **streams: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        cwd=ROOT,
        text=True,
        **streams,
    )


def start_worker(address: str) -> subprocess.Popen[str]:
    worker = start("helpers.pod", "worker", address, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


@pytest.mark.slow
@pytest.mark.crash
def test_a_client_whose_pod_worker_dies_goes_on_from_its_last_checkpoint(
    tmp_path: Path,
) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    run_dir, events = tmp_path / "run", tmp_path / "events"
    run_dir.mkdir()
    client = (sys.executable, "-m", "helpers.pod", "client", address, str(run_dir))
    command = ("resumable_tf", "run", "--events", str(events), "--max-fruitless", "9")
    worker = start_worker(address)
    supervisor = start(*command, "--", *client, stderr=subprocess.PIPE)
    try:
        steps = run_dir / "steps"
        while not (steps.exists() and len(steps.read_text().split()) > STOP_STEP // 3):
            assert supervisor.poll() is None
            time.sleep(0.02)
        worker.kill()
        worker.communicate()
        worker = start_worker(address)
        _, errors = supervisor.communicate(timeout=400)
    finally:
        worker.kill()
        worker.communicate()
        supervisor.terminate()
        supervisor.communicate()
    assert supervisor.returncode == 0, errors[-4000:]
    assert "UnavailableError" in errors
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    ends = [line["how"] for line in lines if line["event"] == "ended"]
    assert ends[0] == "crashed with exit code 1"
    assert ends[-1] == "finished"
    again = [int(step) for step in steps.read_text().split()]
    assert sorted(set(again)) == list(range(1, STOP_STEP + 1))
    # From the last checkpoint, not from the beginning.
    assert again.count(1) == 1
    state = small_state()
    Checkpointer(str(run_dir)).restore(state)
    assert_at_step(state, STOP_STEP)
