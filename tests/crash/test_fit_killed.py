"""Processes that train with `model.fit` are killed for real, and continue exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.fork_server import ForkServer
from helpers.keras_programs import PROGRAMS

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.crash
# All are interrupted in one process too, by test_fit_resume.py.
IN_SUITE = {"mlp"}


def marked(name: str) -> list[pytest.MarkDecorator]:
    if name in IN_SUITE:
        return []
    return [pytest.mark.proof]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer("fit")
    yield server
    server.close()


def train(server: ForkServer, name: str, run_dir: Path, kill_at: int | None) -> int:
    args = [name, "--run-dir", str(run_dir)]
    args += ["--kill-at", str(kill_at)] if kill_at else []
    done = server.run(args, env={}, timeout_secs=300)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marked(name)) for name in PROGRAMS]
)
def test_a_killed_fit_equals_one_that_was_never_killed(
    server: ForkServer, name: str, tmp_path: Path
) -> None:
    assert train(server, name, tmp_path / "whole", None) == 0
    for kill_at in (5, 6):
        assert train(server, name, tmp_path / "killed", kill_at) == -signal.SIGKILL
    assert train(server, name, tmp_path / "killed", None) == 0
    runs = ("whole", "killed")
    one, other = (dict(np.load(tmp_path / run / "result.npz")) for run in runs)
    assert tuple(one.pop("begun_at")) == (0, 0)
    # Epoch and batch: the last start did not begin anew.
    assert tuple(other.pop("begun_at")) > (0, 0)
    assert sorted(one) == sorted(other)
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


@pytest.mark.slow
def test_an_interrupted_fit_on_two_replicas_equals_plain_fit(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "helpers.two_replicas", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    *said, last = done.stdout.splitlines()
    assert last == "differences: []", done.stderr[-3000:]
    assert [line.partition(":")[0] for line in said] == [
        "resumed from step 3",
        "resumed from step 9",
    ]
