"""Callbacks that decide by what they keep decide alike after a resume.

Their enumerations, records, shared counts and comparisons steer the learning rate, so
that anything lost or doubled shows in the weights and the history.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import keeping_callbacks
from helpers.fit_runs import differences, fit, interrupted_fit
from helpers.keras_programs import fresh

pytestmark = [
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*ran out of data:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("every", "kills"), [(3, [5, 9]), pytest.param(1, [8, 3], marks=pytest.mark.slow)]
)
def test_an_interrupted_fit_decides_as_one_that_was_not(
    every: int, kills: list[int], tmp_path: Path
) -> None:
    expected = fit(fresh(keeping_callbacks.program), [])
    plan = keeping_callbacks.FIRST_PLAN
    result = interrupted_fit(
        "",
        tmp_path,
        every=every,
        kills=kills,
        program=lambda: fresh(keeping_callbacks.program),
    )
    assert not differences(expected, result)
    assert len(expected["h_loss"]) == 4 and expected["h_MAIN"][-1] > 0
    assert plan == keeping_callbacks.Plan(1.0, keeping_callbacks.Phase.WARMUP)
    assert [phase.value for phase in keeping_callbacks.Phase] == [0.01, 0.05, 0.002]


def train(run_dir: Path, kill_at: int | None) -> int:
    command = [sys.executable, "-m", "helpers.keeping_callbacks"]
    command += ["--run-dir", str(run_dir)]
    command += ["--kill-at", str(kill_at)] if kill_at else []
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


@pytest.mark.slow
@pytest.mark.crash
def test_a_killed_fit_decides_as_one_that_was_not(tmp_path: Path) -> None:
    assert train(tmp_path / "whole", None) == 0
    for kill_at in (7, 9):
        assert train(tmp_path / "killed", kill_at) == -signal.SIGKILL
    assert train(tmp_path / "killed", None) == 0
    runs = ("whole", "killed")
    one, other = (np.load(tmp_path / run / "result.npz") for run in runs)
    assert sorted(one.files) == sorted(other.files)
    for key in one.files:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)
    # 32 batches in all; the last start had fewer than a whole run's to do.
    assert len((tmp_path / "killed" / "batches").read_bytes()) < 7 + 9 + 32
