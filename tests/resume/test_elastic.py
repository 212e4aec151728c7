"""A run goes on with another number of replicas or processes: the same batches."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import metric_lines, run_training, train_args, write_corpus
from helpers.workers import run_workers

pytestmark = [pytest.mark.proof, pytest.mark.crash]


def mirrored(num_replicas: int) -> dict[str, Any]:
    return {"strategy": "mirrored", "num_replicas": num_replicas}


def test_one_two_and_four_replicas_and_two_processes_continue_each_other(
    tmp_path: Path,
) -> None:
    corpus = write_corpus(tmp_path / "corpus.tsv")
    whole = train_args(tmp_path / "whole", corpus)
    assert run_training(whole).returncode == 0
    run_dir = tmp_path / "run"
    # Each start is killed two steps after a save, and the next one has other devices.
    for kill_at, topology in ((6, {}), (10, mirrored(2)), (14, mirrored(4))):
        args = train_args(run_dir, corpus, **topology)
        done = run_training(args, kill_after_step=kill_at)
        assert done.returncode == -signal.SIGKILL, done.stderr
    # These stop by themselves: a save that a kill meets may not be committed, and what
    # two processes have trained is to be continued here. test_multi_worker kills them.
    for code, output in run_workers(run_dir, corpus, stop_step=16):
        assert code == 0, output
    last = run_training(train_args(run_dir, corpus, **mirrored(2)))
    assert last.returncode == 0, last.stderr
    assert "resumed from step 16" in last.stderr
    curves = [metric_lines(path, "train") for path in (tmp_path / "whole", run_dir)]
    for one, other in zip(*curves, strict=True):
        assert (one["step"], one["num_tokens"]) == (other["step"], other["num_tokens"])
        # Sums over rows are formed in another order on another number of replicas:
        # float32 rounding, grown by up to 24 steps.
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
