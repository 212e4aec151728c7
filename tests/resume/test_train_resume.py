"""Killed at any moment and started again, a run ends bit for bit the same.

Guards against: state that is not saved (dropout, optimizer, metrics window), a batch
trained twice or skipped, off-by-one at an epoch's end and at the end of training.
The processes are real and are killed by SIGKILL.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import (
    assert_equal_runs,
    assert_same_run,
    metric_lines,
    run_training,
    start_training,
    train_args,
    write_corpus,
)
from helpers.starts import begun_at

STRATEGIES = {
    "one": {"strategy": "one"},
    "mirrored": {"strategy": "mirrored", "num_replicas": 2},
}


# What two replicas add is a matter of minutes, not of CI.
MIRRORED_IN_PROOF = pytest.mark.parametrize(
    "reference",
    ["one", pytest.param("mirrored", marks=pytest.mark.proof)],
    indirect=True,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.tsv")


@pytest.fixture(scope="module", params=list(STRATEGIES))
def reference(
    request: pytest.FixtureRequest,
    corpus: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path]:
    """A run that was never interrupted."""
    run_dir = tmp_path_factory.mktemp(f"reference-{request.param}") / "run"
    done = run_training(train_args(run_dir, corpus, **STRATEGIES[request.param]))
    assert done.returncode == 0, done.stderr
    return request.param, run_dir


def _kill_and_finish(
    run_dir: Path, corpus: Path, strategy: str, kill_steps: list[int]
) -> None:
    args = train_args(run_dir, corpus, **STRATEGIES[strategy])
    for step in kill_steps:
        killed = run_training(args, kill_after_step=step)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = run_training(args)
    assert done.returncode == 0, done.stderr


def _wait_for_checkpoint(process: Any, run_dir: Path) -> None:
    while not list(run_dir.glob("checkpoints/ckpt-*.manifest.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def _steps_per_epoch(corpus: Path) -> float:
    records = json.loads((corpus.parent / "records" / "records.json").read_text())
    return records["splits"]["train"]["num_rows"] / 8


@pytest.mark.crash
@MIRRORED_IN_PROOF
def test_killed_at_random_steps_the_run_ends_bit_for_bit_the_same(
    reference: tuple[str, Path], corpus: Path, tmp_path: Path
) -> None:
    strategy, uninterrupted = reference
    # Past the first save, so that each kill is followed by a resume.
    steps = sorted(random.Random(strategy).sample(range(5, 24), 3))
    _kill_and_finish(tmp_path / "run", corpus, strategy, steps)
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.parametrize("reference", ["one"], indirect=True)
def test_killed_with_a_fast_tier_that_is_lost_on_the_way_it_is_the_same(
    reference: tuple[str, Path], corpus: Path, tmp_path: Path
) -> None:
    _, uninterrupted = reference
    fast = {"fast_dir": tmp_path / "fast", "fast_every_steps": 2}
    args = train_args(tmp_path / "run", corpus, **STRATEGIES["one"], **fast)
    resumed = []
    for step in (7, 11, 15):
        killed = run_training(args, kill_after_step=step)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        resumed += re.findall(r"resumed from step (\d+)", killed.stderr)
        if step == 11:
            shutil.rmtree(tmp_path / "fast")
    done = run_training(args)
    assert done.returncode == 0, done.stderr
    # How far a save in flight has come is a matter of chance.
    assert resumed and int(resumed[0]) in (4, 6)
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.crash
@pytest.mark.proof
def test_killed_before_the_first_save_and_in_every_later_call_it_is_the_same(
    reference: tuple[str, Path], corpus: Path, tmp_path: Path
) -> None:
    strategy, uninterrupted = reference
    _kill_and_finish(tmp_path / "run", corpus, strategy, [1, 5, 9, 12, 16, 23, 24])
    assert begun_at(tmp_path / "run")[:3] == [0, 0, 4]
    assert assert_same_run(tmp_path / "run", uninterrupted) in (16, 20)


@pytest.mark.crash
@pytest.mark.proof
@pytest.mark.parametrize("num_kills", [3, 8])
@MIRRORED_IN_PROOF
def test_killed_at_random_moments_the_run_ends_bit_for_bit_the_same(
    reference: tuple[str, Path], corpus: Path, tmp_path: Path, num_kills: int
) -> None:
    strategy, uninterrupted = reference
    generator = random.Random(f"moments/{strategy}")
    args = train_args(tmp_path / "run", corpus, **STRATEGIES[strategy])
    for number in range(num_kills):
        # Without its second end a start could finish, and the last have nothing to do.
        process = start_training(args, KILL_AFTER_STEP="22")
        if number == 0:
            _wait_for_checkpoint(process, tmp_path / "run")
        time.sleep(generator.uniform(0.0, 1.0 if number == 0 else 14.0))
        process.kill()
        process.communicate()
    done = run_training(args)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.proof
def test_a_resume_exactly_at_an_epochs_end_is_the_same(
    corpus: Path, tmp_path: Path
) -> None:
    run_training(train_args(tmp_path / "probe", corpus, stop_step=1))
    per_epoch = _steps_per_epoch(corpus)
    ends = [int(per_epoch), int(per_epoch) + 1, int(2 * per_epoch)]
    flags = {"stop_step": ends[-1] + 3, "save_every_steps": 1, "steps_per_call": 1}
    whole = train_args(tmp_path / "whole", corpus, **flags)
    assert run_training(whole).returncode == 0
    _kill_run = train_args(tmp_path / "run", corpus, **flags)
    for end in ends:
        killed = run_training(_kill_run, kill_after_step=end + 1)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert run_training(_kill_run).returncode == 0
    assert assert_same_run(tmp_path / "run", tmp_path / "whole") >= ends[0]


def test_a_finished_run_says_so_and_changes_nothing(
    reference: tuple[str, Path], corpus: Path
) -> None:
    strategy, run_dir = reference
    before = sorted((p, p.stat().st_mtime_ns) for p in run_dir.rglob("ckpt-*"))
    again = run_training(train_args(run_dir, corpus, **STRATEGIES[strategy]))
    assert again.returncode == 0
    assert "already finished at step 24" in again.stderr
    assert sorted((p, p.stat().st_mtime_ns) for p in run_dir.rglob("ckpt-*")) == before


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.parametrize("reference", ["one"], indirect=True)
def test_sigterm_saves_stops_with_75_and_the_next_start_continues(
    reference: tuple[str, Path], corpus: Path, tmp_path: Path
) -> None:
    _, uninterrupted = reference
    flags = {"save_every_steps": 1000, "steps_per_call": 1}
    args = train_args(tmp_path / "run", corpus, **flags)
    process = start_training(args)
    log = tmp_path / "run" / "metrics" / "train.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert "Run the same command to continue" in output
    assert run_training(args).returncode == 0
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.slow
@MIRRORED_IN_PROOF
def test_results_do_not_depend_on_the_steps_of_a_call(
    reference: tuple[str, Path], corpus: Path, tmp_path: Path
) -> None:
    strategy, uninterrupted = reference
    args = train_args(
        tmp_path / "run", corpus, **STRATEGIES[strategy], steps_per_call=7
    )
    assert run_training(args).returncode == 0
    assert_equal_runs(tmp_path / "run", uninterrupted)


# In CI test_elastic.py compares 1, 2 and 4 replicas and two processes.
@pytest.mark.proof
def test_two_replicas_train_the_same_batches_as_one(
    corpus: Path, tmp_path: Path
) -> None:
    for name, flags in STRATEGIES.items():
        args = train_args(tmp_path / name, corpus, **flags)
        assert run_training(args).returncode == 0
    curves = [metric_lines(tmp_path / name, "train") for name in STRATEGIES]
    assert [line["num_tokens"] for line in curves[0]] == [
        line["num_tokens"] for line in curves[1]
    ]
    # Sums over rows are formed in another order: float32 rounding, grown by 24 steps.
    for one, two in zip(*curves, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("flag", "value", "names"),
    [
        ("batch_size", 4, ["--batch-size 8", "now 4"]),
        ("seed", 2, ["--seed 1", "now 2"]),
        ("preset", "small", ["--preset tiny", "small"]),
    ],
)
@pytest.mark.slow
@MIRRORED_IN_PROOF
def test_other_settings_are_refused_by_name_and_nothing_is_changed(
    reference: tuple[str, Path],
    corpus: Path,
    flag: str,
    value: object,
    names: list[str],
) -> None:
    strategy, run_dir = reference
    before = sorted((p, p.stat().st_mtime_ns) for p in run_dir.rglob("*"))
    flags = {**STRATEGIES[strategy], flag: value}
    refused = run_training(train_args(run_dir, corpus, **flags))
    assert refused.returncode == 2
    for name in names:
        assert name in refused.stderr
    assert sorted((p, p.stat().st_mtime_ns) for p in run_dir.rglob("*")) == before
