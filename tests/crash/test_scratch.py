"""What a killed process leaves in the temporary directory is removed by the next.

Guards against a disk that fills with a whole state at every SIGKILL of a save or a
restore on an object store, and against the loss of what a living process needs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.fake_gcs import FakeGcs
from helpers.fake_gcs_faults import Fault
from helpers.small_state import assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.checkpoint.scratch import scratch_directory

TESTS = Path(__file__).parents[1]
URL = "gs://bucket/run"
HOLD = """
from resumable_tf.checkpoint.scratch import scratch_directory
with scratch_directory() as directory:
    open(f"{directory}/data", "w").write("a state")
    print(directory, flush=True)
    input()
"""
pytestmark = pytest.mark.crash


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def start(*command: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def holder() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process with a scratch directory, and the directory."""
    with start("-c", HOLD) as process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_a_living_processs_stays_and_a_dead_ones_goes(
    holder: tuple[subprocess.Popen[str], Path], temporary: Path
) -> None:
    process, left = holder
    with scratch_directory() as own:
        assert (left / "data").read_text() == "a state"
        process.send_signal(signal.SIGKILL)
        process.wait()
        with scratch_directory() as second:
            assert set(os.listdir(temporary)) == {
                *(os.path.basename(own), os.path.basename(second))
            }
    assert os.listdir(temporary) == []


@pytest.mark.parametrize(
    "whose", ["another boot's", "another container's", "another user's", "no name"]
)
def test_what_is_not_certainly_a_dead_processs_own_stays(
    holder: tuple[subprocess.Popen[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    whose: str,
) -> None:
    process, left = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    parts = left.name.split(".")
    if whose == "another user's":
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    elif whose == "no name":
        parts = ["resumable-tf-abcdefgh"]
    else:
        parts[1 if "boot" in whose else 2] = "123"
    kept = left.rename(left.with_name(".".join(parts)))
    with scratch_directory():
        assert (kept / "data").read_text() == "a state"


def test_a_name_alone_does_not_lead_out_of_the_directory(
    holder: tuple[subprocess.Popen[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    process, left = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    elsewhere = left.rename(tmp_path_factory.mktemp("elsewhere") / "moved")
    left.symlink_to(elsewhere)
    with scratch_directory():
        assert (elsewhere / "data").exists()


def test_a_directory_that_can_not_be_removed_keeps_no_save_from_being_made(
    holder: tuple[subprocess.Popen[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    process, left = holder
    process.send_signal(signal.SIGKILL)
    process.wait()

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", refuse)
        made = scratch_directory()
    made.cleanup()
    assert f"Permission denied: '{left}'" in caplog.text


def test_a_save_killed_in_its_upload_leaves_nothing_after_the_next(
    fake_gcs: FakeGcs, temporary: Path
) -> None:
    with start("-m", "helpers.hold_run", URL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for answer in ("holds 0", "saved 1"):
            assert process.stdout.readline().strip() == answer
            fake_gcs.plan.clear()
            fake_gcs.plan.add(Fault("slow", match="upload.*ckpt-2", secs=60, times=9))
            process.stdin.write("save\n")
            process.stdin.flush()
        while fake_gcs.plan.num_injected == 0:
            time.sleep(0.01)
        process.kill()
    [left] = temporary.iterdir()
    assert {path.name for path in left.iterdir()} == {
        *("ckpt-2.index", "ckpt-2.data-00000-of-00001")
    }
    fake_gcs.plan.clear()
    Checkpointer(URL).restore(state := small_state())
    assert_at_step(state, 1)
    assert list(temporary.iterdir()) == []
