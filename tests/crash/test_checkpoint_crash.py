"""A kill at any point leaves a run that continues exactly, losing one save at most.

Guards against half-written, half-deleted and half-moved checkpoints. The victims are
real processes, killed by SIGKILL: in front of every storage operation, and at times
spread over the writing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.counts import count

TESTS = Path(__file__).parent.parent
pytestmark = pytest.mark.crash
# A tenth of the proof has to fit into CI, so what takes long is in pieces: each kills
# at every NUM_PIECES-th operation.
NUM_PIECES = 4
# The default in CI; both in the proof.
MODES = [
    pytest.param("async", marks=pytest.mark.slow),
    pytest.param("sync", marks=pytest.mark.proof),
]


def run_matrix(directory: Path, *flags: str, timeout_secs: float = 550) -> int:
    """Returns how many victims were killed; all of them were checked."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "helpers.kill_matrix", str(directory), *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_secs,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    num_killed = int(json.loads(done.stdout.splitlines()[-1])["killed"])
    count(f"killed {num_killed}: {' '.join(flags)}")
    return num_killed


def of(piece: int) -> tuple[str, str]:
    """Returns the flags for each NUM_PIECES-th operation, from a certain one."""
    return f"--first={piece}", f"--every={NUM_PIECES}"


def test_kill_at_each_storage_operation_leaves_a_restorable_run(
    tmp_path: Path,
) -> None:
    """One save with retention, in the default mode."""
    assert run_matrix(tmp_path, "--mode=async", "--scheme=local") > 25


@pytest.mark.proof
def test_kill_in_a_second_save_of_a_step_does_not_cost_it(tmp_path: Path) -> None:
    """Another, older checkpoint is there too."""
    flags = ("--mode=async", "--scheme=local", "--scene=again")
    assert run_matrix(tmp_path, *flags) > 40


@pytest.mark.slow
def test_kill_at_any_time_leaves_a_restorable_run(tmp_path: Path) -> None:
    flags = ("--timed=4", "--saves=24", "--size=500000")
    assert run_matrix(tmp_path, *flags, "--mode=async", "--scheme=local") >= 2


@pytest.mark.proof
def test_kill_at_each_operation_of_an_upload(tmp_path: Path) -> None:
    assert run_matrix(tmp_path, "--mode=async", "--scheme=object") > 20


@pytest.mark.proof
@pytest.mark.parametrize("piece", range(NUM_PIECES))
@pytest.mark.parametrize("scheme", ["local", "object"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_kill_at_each_operation_of_several_saves(
    tmp_path: Path, mode: str, scheme: str, piece: int
) -> None:
    flags = ("--saves=3", f"--mode={mode}", f"--scheme={scheme}", *of(piece))
    assert run_matrix(tmp_path, *flags) > 50 // NUM_PIECES


# Damaged: the most operations of all, and those of a save among them.
@pytest.mark.slow
def test_kill_at_every_other_operation_on_google_cloud_storage(tmp_path: Path) -> None:
    """Through gcsfs and HTTP; the scene with the most operations of all."""
    flags = ("--mode=sync", "--scheme=gs", "--scene=damaged", "--every=2")
    assert run_matrix(tmp_path, *flags) > 20


@pytest.mark.proof
@pytest.mark.parametrize("piece", range(NUM_PIECES))
@pytest.mark.parametrize("scheme", ["local", "gs"])
@pytest.mark.parametrize("scene", ["save", "new", "damaged", "replaced", "again"])
def test_kill_at_each_operation_of_a_restore_and_a_save(
    tmp_path: Path, scene: str, scheme: str, piece: int
) -> None:
    """First start, quarantine and a dead holder's lease, going back, a second save."""
    flags = ("--mode=sync", f"--scheme={scheme}", f"--scene={scene}", *of(piece))
    assert run_matrix(tmp_path, *flags) > 20 // NUM_PIECES


@pytest.mark.parametrize("mode", MODES)
def test_kills_spread_over_the_writing(tmp_path: Path, mode: str) -> None:
    flags = ("--timed=16", "--saves=24", "--size=2000000", f"--mode={mode}")
    assert run_matrix(tmp_path, *flags, "--scheme=local") > 5
