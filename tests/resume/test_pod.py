"""A pod on one machine: the training script drives gRPC workers, which are killed.

Each worker has a disk of its own and can't write files: what is read there was read
there, and what is saved went through the client.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.records import write_records
from helpers.runs import (
    ROOT,
    assert_same_run,
    metric_lines,
    run_training,
    train_args,
    write_corpus,
)
from helpers.tpu_pod import PRIVATE, Pod, copy_to_hosts

pytestmark = pytest.mark.crash

_PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])

_STOP_STEP = 6
_FLAGS = {
    "stop_step": _STOP_STEP,
    "save_every_steps": 2,
    "steps_per_call": 2,
    "log_every_steps": 1,
}


def start_client(
    pod: Pod, client: Path, run_dir: str, corpus: Path, **flags: object
) -> subprocess.Popen[str]:
    """Starts the training script as worker 0 of a pod does."""
    args = train_args(
        Path(PRIVATE) / run_dir,
        corpus,
        strategy="tpu",
        tpu=pod.addresses,
        **{"records": f"{PRIVATE}/records", **_FLAGS, **flags},
    )
    return subprocess.Popen(
        [sys.executable, "-m", "helpers.pod_training", *args],
        cwd=client,
        env={**os.environ, "PYTHONPATH": _PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_same_curves(run_dir: Path, reference: Path) -> None:
    """Asserts the same batches, and losses that differ by float32 rounding at most."""
    curves = [metric_lines(path, "train") for path in (run_dir, reference)]
    for one, other in zip(*curves, strict=True):
        assert (one["step"], one["num_tokens"]) == (other["step"], other["num_tokens"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, output


@pytest.mark.proof
def test_a_pod_that_loses_a_host_says_so_and_continues_bit_for_bit(
    tmp_path: Path,
) -> None:
    corpus, client = write_corpus(tmp_path / "corpus.tsv"), tmp_path / "client"
    client.mkdir()
    single = train_args(
        tmp_path / "single", corpus, **{**_FLAGS, "records": client / "records"}
    )
    done = run_training(single)
    assert done.returncode == 0, done.stderr
    with Pod(tmp_path) as pod:
        copy_to_hosts(pod, client / "records")
        code, output = finish(start_client(pod, client, "whole", corpus))
        assert code == 0, output
        process = start_client(pod, client, "run", corpus)
        _wait_for_lines(process, client / "run", 3)
        _wait_for_checkpoint(process, client / "run")
        pod.kill(1)
        code, output = finish(process)
        assert code == 69, output
        # Either TensorFlow has failed, or it waits and the watch has ended the process.
        assert "HostLostError: lost" in output or "lost host" in output, output
        pod.start(1)
        code, output = finish(start_client(pod, client, "run", corpus))
        assert code == 0, output
        assert re.search(r"resumed from step [1-9]", output), output
        for index in range(2):
            assert os.listdir(pod.directory_of(index)) == ["records"]
    assert_same_run(client / "run", client / "whole")
    # Sums over rows are formed in another order: float32 rounding.
    assert_same_curves(tmp_path / "single", client / "whole")


@pytest.mark.proof
def test_a_pod_whose_hosts_all_end_at_once_saves_and_continues(
    tmp_path: Path,
) -> None:
    """A spot pod is preempted, and the client is the last to hear of it.

    Bits are not compared: on a busy machine two whole runs on these workers may differ.
    """
    corpus, client = write_corpus(tmp_path / "corpus.tsv"), tmp_path / "client"
    client.mkdir()
    single = {**_FLAGS, "records": client / "records", "stop_step": 1}
    done = run_training(train_args(tmp_path / "single", corpus, **single))
    assert done.returncode == 0, done.stderr
    # Only what is saved at the end can be resumed from.
    flags = {"save_every_steps": 1000, "stop_step": 12}
    with Pod(tmp_path) as pod:
        copy_to_hosts(pod, client / "records")
        code, output = finish(start_client(pod, client, "whole", corpus, **flags))
        assert code == 0, output
        process = start_client(pod, client, "run", corpus, **flags)
        _wait_for_lines(process, client / "run", 3)
        process.send_signal(signal.SIGSTOP)
        pod.terminate()
        time.sleep(2)
        process.terminate()
        process.send_signal(signal.SIGCONT)
        code, output = finish(process)
        assert code == 75, output
        step = metric_lines(client / "run", "train")[-1]["step"]
        manifest = client / "run" / "checkpoints" / f"ckpt-{step}.manifest.json"
        assert manifest.exists(), output
        # The second SIGTERM: whatever TensorFlow has made of the first one.
        pod.terminate()
        assert pod.wait() == [0, 0]
        pod.start(0, 1)
        code, output = finish(start_client(pod, client, "run", corpus, **flags))
        assert code == 0, output
        assert f"resumed from step {step}" in output
    assert_same_curves(client / "run", client / "whole")


@pytest.mark.slow
def test_hosts_read_their_own_rows_and_their_state_goes_through_the_client(
    tmp_path: Path,
) -> None:
    client = tmp_path / "client"
    write_records(client / "records", [5, 7, 4])
    with Pod(tmp_path) as pod:
        copy_to_hosts(pod, client / "records")
        done = subprocess.run(
            [sys.executable, "-m", "helpers.pod_client", pod.addresses],
            cwd=client,
            env={**os.environ, "PYTHONPATH": _PATH},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.endswith("exact\n")
        for index in range(2):
            assert os.listdir(pod.directory_of(index)) == ["records"]
    assert os.listdir(client) == ["run"]


def _wait_for_checkpoint(process: subprocess.Popen[str], run_dir: Path) -> None:
    while not list((run_dir / "checkpoints").glob("ckpt-*.manifest.json")):
        assert process.poll() is None
        time.sleep(0.05)


def _wait_for_lines(process: subprocess.Popen[str], run_dir: Path, count: int) -> None:
    log = run_dir / "metrics" / "train.jsonl"
    while process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) >= count:
            break
        time.sleep(0.05)
