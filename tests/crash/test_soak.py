"""The soak test's own test: a few of its cycles, so that it does not rot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.crash


def soak(*flags: str) -> tuple[int, dict[str, object], str]:
    """Returns the exit code, what the last line says, and all output."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "soak.py"), *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    output = done.stdout + done.stderr[-3000:]
    last = done.stdout.splitlines()[-1:] or ["{}"]
    return done.returncode, json.loads(last[0]) if "{" in last[0] else {}, output


def test_a_few_cycles_lose_nothing_and_nothing_grows() -> None:
    flags = ("--cycles=5", "--cycles-per-run=3", "--saves=20", "--seed=3")
    code, result, output = soak(*flags)
    assert code == 0, output
    assert (result["cycles"], result["runs"], result["wrong"]) == (5, 2, 0)
    assert result["killed"] > 0
    assert result["committed"] > 0
    assert result["is_bounded"]
    growth = result["growth"]
    assert isinstance(growth, dict)
    assert growth["threads"] <= 0 and growth["files"] <= 0
