"""A kill at any storage operation of two tiers: exact afterwards, and little is lost.

Guards against a copy that is half there, a fast tier that is not known any more after
a kill, and against relying on a machine that is gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.counts import count

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.crash


def run_matrix(directory: Path, *flags: str) -> int:
    """Returns how many victims were killed; all of them were checked."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "helpers.tier_matrix", str(directory), *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    num_killed = int(json.loads(done.stdout.splitlines()[-1])["killed"])
    count(f"two tiers, killed {num_killed}: {' '.join(flags)}")
    return num_killed


def test_kills_of_saves_to_two_tiers_lose_no_more_than_the_last_step(
    tmp_path: Path,
) -> None:
    """A few operations; more in CI, all of them in the proof."""
    assert run_matrix(tmp_path, "--scheme=local", "--stride=29") >= 3


@pytest.mark.proof
def test_kills_in_second_saves_of_a_step_do_not_cost_it(tmp_path: Path) -> None:
    assert run_matrix(tmp_path, "--scheme=local", "--again", "--stride=5") > 20


@pytest.mark.proof
def test_kill_at_every_third_operation_of_two_tiers(tmp_path: Path) -> None:
    assert run_matrix(tmp_path, "--scheme=local", "--stride=3") > 25


# A tenth of the proof has to fit into CI, so what takes long is in pieces: each kills
# at every NUM_PIECES-th operation.
NUM_PIECES = 6
IN_PIECES = pytest.mark.parametrize("piece", range(NUM_PIECES))


def of(piece: int) -> tuple[str, str]:
    """Returns the flags for each NUM_PIECES-th operation, from a certain one."""
    return f"--first={piece}", f"--stride={NUM_PIECES}"


@pytest.mark.proof
@IN_PIECES
def test_kill_at_each_operation_of_several_saves_to_two_tiers(
    tmp_path: Path, piece: int
) -> None:
    flags = ("--scheme=local", "--saves=4", *of(piece))
    assert run_matrix(tmp_path, *flags) > 150 // NUM_PIECES


@pytest.mark.proof
@IN_PIECES
@pytest.mark.parametrize("scheme", ["local", "gs"])
def test_kill_at_each_operation_of_second_saves_of_a_step(
    tmp_path: Path, scheme: str, piece: int
) -> None:
    flags = (f"--scheme={scheme}", "--again", *of(piece))
    assert run_matrix(tmp_path, *flags) > 100 // NUM_PIECES


@pytest.mark.proof
@IN_PIECES
def test_kill_at_each_operation_with_google_cloud_storage(
    tmp_path: Path, piece: int
) -> None:
    flags = ("--scheme=gs", "--saves=2", *of(piece))
    assert run_matrix(tmp_path, *flags) > 100 // NUM_PIECES
