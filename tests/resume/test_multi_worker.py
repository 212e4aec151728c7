"""Two worker processes with MultiWorkerMirroredStrategy, killed and started again."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from helpers.runs import assert_same_run, write_corpus
from helpers.workers import run_workers

import resumable_tf as rtf

_STOP_STEP = 12


@pytest.mark.crash
@pytest.mark.parametrize(
    "kill_steps",
    [
        pytest.param(["7"], marks=pytest.mark.proof),
        pytest.param(["3", "7"], marks=pytest.mark.proof),
    ],
)
def test_two_workers_killed_after_a_step_end_bit_for_bit_the_same(
    tmp_path: Path, kill_steps: list[str]
) -> None:
    corpus = write_corpus(tmp_path / "corpus.tsv")
    for code, output in run_workers(tmp_path / "whole", corpus, stop_step=_STOP_STEP):
        assert code == 0, output
    for step in kill_steps:
        killed = run_workers(
            tmp_path / "run", corpus, stop_step=_STOP_STEP, KILL_AFTER_STEP=step
        )
        # The chief kills itself; the other one is killed or loses its partner.
        assert killed[0][0] == -signal.SIGKILL, killed[0][1]
        assert killed[1][0] != 0, killed[1][1]
    for code, output in run_workers(tmp_path / "run", corpus, stop_step=_STOP_STEP):
        assert code == 0, output
    assert assert_same_run(tmp_path / "run", tmp_path / "whole") == 4


@pytest.mark.slow
@pytest.mark.crash
def test_sigterm_to_one_worker_stops_both_at_the_same_step_after_a_save(
    tmp_path: Path,
) -> None:
    """Only the chief saves, and it is not the one that hears of the preemption.

    That comes right before a validation, which both leave out and make up for.
    """
    corpus = write_corpus(tmp_path / "corpus.tsv")
    flags = {"save_every_steps": 1000, "steps_per_call": 2, "eval_every_steps": 6}
    stopped = run_workers(
        *(tmp_path / "run", corpus),
        stop_step=_STOP_STEP,
        flags=flags,
        env_of_second={"TERM_AFTER_STEP": "5"},
    )
    for code, output in stopped:
        assert code == 75, output
        assert "saved step 6 and stopped" in output
    checkpoints = rtf.Checkpointer(str(tmp_path / "run")).checkpoints()
    assert [info.step for info in checkpoints] == [6]
    assert checkpoints[0].manifest.extra["evaluation_owed"]
    for run in ("run", "whole"):
        for code, output in run_workers(
            tmp_path / run, corpus, stop_step=_STOP_STEP, flags=flags
        ):
            assert code == 0, output
    assert assert_same_run(tmp_path / "run", tmp_path / "whole") == 6
