"""The file that tells from elsewhere how a supervised training ended for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fake_gcs import FakeGcs

from resumable_tf.errors import UsageError
from resumable_tf.storage import open_storage
from resumable_tf.supervising.events import Events
from resumable_tf.supervising.outcome import OutcomeFile, read_outcome

ROOT = Path(__file__).resolve().parents[2]


def stop(file: OutcomeFile, exit_code: int, *, reason: str = "because") -> None:
    fields = {"exit_code": exit_code, "reason": reason}
    Events(file, clock=lambda: 17.0).emit(
        "stopped", num_starts=1, best_step=None, **fields
    )


@pytest.mark.parametrize("exit_code", [0, 2, 70])
def test_an_end_for_good_is_kept_until_the_next_start(
    exit_code: int, tmp_path: Path
) -> None:
    path = str(tmp_path / "job" / "outcome.json")
    storage = open_storage(tmp_path)
    file = OutcomeFile(path)
    stop(file, exit_code)
    found = read_outcome(storage, "job/outcome.json")
    assert found is not None
    assert (found.exit_code, found.reason, found.time) == (exit_code, "because", 17.0)
    assert found.is_finished == (exit_code == 0)
    OutcomeFile(path).clear()
    assert read_outcome(storage, "job/outcome.json") is None
    OutcomeFile(path).clear()


@pytest.mark.parametrize("exit_code", [1, 69, 75])
def test_what_may_be_started_again_has_not_ended(
    exit_code: int, tmp_path: Path
) -> None:
    stop(OutcomeFile(str(tmp_path / "outcome.json")), exit_code)
    assert list(tmp_path.iterdir()) == []


def test_other_events_are_none(tmp_path: Path) -> None:
    file = OutcomeFile(str(tmp_path / "outcome.json"))
    Events(file).emit("no_heartbeat", start=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", "gs://bucket/", "runs/"])
def test_a_path_without_a_name_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="--outcome"):
        OutcomeFile(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"exit_code": "x"}'])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write_bytes("outcome.json", content)
    with pytest.raises(UsageError, match=r"outcome\.json can't be read.*Remove it"):
        read_outcome(storage, "outcome.json")


def test_the_command_leaves_it_in_the_bucket_and_removes_it_at_the_start(
    fake_gcs: FakeGcs, tmp_path: Path
) -> None:
    url = "gs://bucket/demo/job/outcome.json"
    storage = open_storage("gs://bucket/demo")
    run = [sys.executable, "-m", "resumable_tf", "run", "--outcome", url]
    run += ["--max-fruitless", "0", "--"]
    for script, exit_code in (("exit 0", 0), ("exit 2", 2), ("exit 1", 70)):
        done = subprocess.run([*run, "sh", "-c", script], cwd=ROOT, check=False)
        assert done.returncode == exit_code
        found = read_outcome(storage, "job/outcome.json")
        assert found is not None and found.exit_code == exit_code
    # While it runs, and after an end that is none, nothing is there.
    mark = tmp_path / "mark"
    look = (
        "from resumable_tf.storage import open_storage; import pathlib, sys;"
        f"there = open_storage('gs://bucket/demo').exists('job/outcome.json');"
        f"pathlib.Path({str(mark)!r}).write_text(str(there)); sys.exit(69)"
    )
    done = subprocess.run([*run, sys.executable, "-c", look], cwd=ROOT, check=False)
    assert (done.returncode, mark.read_text()) == (69, "False")
    assert read_outcome(storage, "job/outcome.json") is None


def test_an_outcome_that_can_not_be_written_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "outcome.json").mkdir()
    (tmp_path / "outcome.json" / "file").touch()
    run = [sys.executable, "-m", "resumable_tf", "run"]
    run += ["--outcome", str(tmp_path / "outcome.json"), "--", "true"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "outcome.json" in done.stderr
