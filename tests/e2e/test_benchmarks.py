"""Guards the benchmarks against what they import changing under them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_save_cost_measures_two_peers_and_leaves_out_one_that_is_missing(
    tmp_path: Path,
) -> None:
    """The script itself fails if what is restored is not what was saved."""
    without_torch = tmp_path / "python"
    without_torch.write_text("#!/bin/sh\necho '{\"is_missing\": true}'\n")
    without_torch.chmod(0o755)
    saves, figures = tmp_path / "saves", tmp_path / "figures.json"
    script = str(ROOT / "benchmarks" / "save_cost.py")
    ended = subprocess.run(
        [
            *(sys.executable, script, "--sizes", "1MB", "--rounds", "1"),
            *("--peers", "ours", "manager", "torch", "--products", "1"),
            *("--torch-python", str(without_torch), "--steps", "5"),
            *("--directory", str(saves), "--json", str(figures)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "pip install torch" in ended.stdout
    peers = json.loads(figures.read_text())["figures"]["1MB"]
    assert set(peers) == {"ours", "manager"}
    for (found,) in peers.values():
        later, paused = found["later"], found["paused"]
        assert len(later["steps_secs"]["beside"]) >= 5
        assert 0 < later["blocked_secs"]
        # What is counted: the steps beside the save, less what they take alone.
        beside = later["steps_secs"]["beside"]
        slower = math.fsum(beside) - len(beside) * later["step_secs"]
        assert math.isclose(later["slowdown_secs"], slower, abs_tol=1e-9)
        assert math.isclose(later["total_secs"], later["blocked_secs"] + slower)
        assert 0 < later["commit_secs"]
        assert 0 < paused["commit_secs"] <= paused["durable_secs"]
        assert 0 < paused["plain_write_secs"]
    assert list(saves.iterdir()) == []
