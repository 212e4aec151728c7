"""Kills and errors at system calls: none loses a committed checkpoint, none is silent.

Guards against what a storage that fails on purpose can't see: a kill between a write
and its fsync, inside TensorFlow, in a temporary file, a lease, a copy to another tier.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NUMBERS = {"EIO": "Errno 5", "ENOSPC": "Errno 28", "EDQUOT": "Errno 122"}
WRITING = "mkdirat,pwrite64,fsync,ftruncate,linkat,rename,renameat,unlinkat,rmdir"
SHORT = pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")


def disturb(directory: Path, *options: str, timeout_secs: float) -> dict[str, Any]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "helpers.syscall_kills", str(directory / "d"), *options],
        env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_secs,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@SHORT
@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("kind", ["loop", "tiers"])
def test_a_few_kills_by_system_call_lose_nothing(tmp_path: Path, kind: str) -> None:
    options = ["--kind", kind, "--calls", WRITING, "--every", "6"]
    found = disturb(tmp_path, *options, timeout_secs=400)
    assert found["counts"]["killed"] >= 8 and found["counts"]["killed twice"]
    assert set(found["counts"]) <= {"killed", "killed twice", "unharmed"}


@pytest.fixture
def strace() -> None:
    """The proof is none without it."""
    if shutil.which("strace") is None:
        pytest.fail("install strace: without it nothing here is proved")


@pytest.mark.proof
@pytest.mark.crash
@pytest.mark.timeout(7200)
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("kind", ["loop", "tiers"])
def test_no_kill_at_any_system_call_of_a_save_loses_a_checkpoint(
    tmp_path: Path, kind: str
) -> None:
    found = disturb(tmp_path, "--kind", kind, timeout_secs=7000)
    print(json.dumps(found))
    assert found["counts"]["killed"] >= 100
    assert set(found["counts"]) <= {"killed", "killed twice", "unharmed"}


@pytest.mark.proof
@pytest.mark.crash
@pytest.mark.timeout(7200)
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("kind", ["loop", "tiers"])
@pytest.mark.parametrize("name", list(NUMBERS))
def test_no_error_of_a_system_call_is_silent_or_loses_a_checkpoint(
    tmp_path: Path, name: str, kind: str
) -> None:
    options = ["--kind", kind, "--action", f"error={name}", "--calls", WRITING]
    found = disturb(tmp_path, *options, timeout_secs=7000)
    print(json.dumps(found))
    assert found["counts"]["told"] >= 10
    assert set(found["counts"]) <= {"told", "unharmed"}
    for text in found["said"]:
        assert "another writer" not in text
        assert re.search(rf"{NUMBERS[name]}\] [\w ./()]+: '[\w.-]+'", text), text
