"""SIGTERM at any moment of a save: it ends with 75, and nothing that was saved is lost.

The moments: in the snapshot, in front of each storage operation (fsync and checksum,
upload, manifest, TensorFlow's list, retention), and at times spread over TensorFlow's
own writing. Each victim is a real process, and the next one checks what it left.
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


def run_matrix(directory: Path, *flags: str) -> dict[str, int]:
    """Returns how many victims ended with which code; all of them were checked."""
    done = subprocess.run(
        [sys.executable, "-m", "helpers.term_matrix", str(directory), *flags],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    count(f"SIGTERM, ends by code {found}: {' '.join(flags)}")
    return found


def test_sigterm_in_a_save_ends_with_75_after_the_newest_step_is_saved(
    tmp_path: Path,
) -> None:
    flags = ("--first=11", "--operations=45", "--every=12", "--timed=1")
    assert run_matrix(tmp_path, "--scheme=local", *flags) == {"75": 5}


def test_with_a_grace_too_short_the_last_commit_is_good(tmp_path: Path) -> None:
    flags = ("--first=20", "--operations=44", "--every=12", "--kill-after=3")
    assert run_matrix(tmp_path, "--scheme=local", *flags) == {"-9": 2}


@pytest.mark.slow
def test_sigterm_in_a_save_that_uploads(tmp_path: Path) -> None:
    flags = ("--operations=56", "--every=5", "--timed=3", "--size=500000")
    codes = run_matrix(tmp_path, "--scheme=object", *flags)
    assert codes == {"75": 12 + 3 + 1}


@pytest.mark.proof
@pytest.mark.parametrize("scheme", ["local", "object"])
def test_sigterm_at_each_operation_of_two_saves(scheme: str, tmp_path: Path) -> None:
    flags = ("--operations=56", "--timed=20", "--size=500000")
    codes = run_matrix(tmp_path, f"--scheme={scheme}", *flags)
    assert codes == {"75": 56 + 20 + 1}


@pytest.mark.proof
@pytest.mark.parametrize("kill_after", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("scheme", ["local", "object"])
def test_sigterm_and_a_kill_at_each_operation_after_it(
    scheme: str, kill_after: int, tmp_path: Path
) -> None:
    flags = (f"--scheme={scheme}", f"--kill-after={kill_after}", "--operations=60")
    codes = run_matrix(tmp_path, *flags)
    assert sum(codes.values()) == 60
    assert codes["-9"] > 20
