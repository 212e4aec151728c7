"""Two worker processes with MultiWorkerMirroredStrategy, killed and started again."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from helpers.runs import assert_same_run, start_training, train_args, write_corpus

_STOP_STEP = 12


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _run_workers(run_dir: Path, corpus: Path, **env: str) -> list[tuple[int, str]]:
    """Runs both workers to their end; returns their exit codes and outputs."""
    args = train_args(run_dir, corpus, strategy="multi_worker", stop_step=_STOP_STEP)
    workers = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    processes: list[subprocess.Popen[str]] = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": workers}, "task": task})
        processes.append(start_training(args, TF_CONFIG=config, **env))
    results = []
    for process in processes:
        try:
            output, _ = process.communicate(timeout=240)
        finally:
            process.kill()
        results.append((process.returncode, output))
    return results


@pytest.mark.slow
@pytest.mark.crash
def test_two_workers_killed_after_a_step_end_bit_for_bit_the_same(
    tmp_path: Path,
) -> None:
    corpus = write_corpus(tmp_path / "corpus.tsv")
    for code, output in _run_workers(tmp_path / "whole", corpus):
        assert code == 0, output
    for step in ("3", "7"):
        killed = _run_workers(tmp_path / "run", corpus, KILL_AFTER_STEP=step)
        # The chief kills itself; the other one is killed or loses its partner.
        assert killed[0][0] == -signal.SIGKILL, killed[0][1]
        assert killed[1][0] != 0, killed[1][1]
    for code, output in _run_workers(tmp_path / "run", corpus):
        assert code == 0, output
    assert_same_run(tmp_path / "run", tmp_path / "whole")
