"""A look at a run finds every damage and changes nothing, without TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.records import digests
from helpers.saved_runs import save_steps
from helpers.small_state import small_state

from resumable_tf.checkpoint import Checkpointer, SaveOptions
from resumable_tf.checkpoint.integrity import verify_run
from resumable_tf.errors import NoCheckpointError
from resumable_tf.storage import open_storage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    save_steps(tmp_path, 1, 2)
    return tmp_path


def problems(run_dir: Path) -> dict[int, tuple[str, ...]]:
    storage = open_storage(str(run_dir))
    return {report.step: report.problems for report in verify_run(storage)}


def test_a_sound_run_has_no_problems(run_dir: Path) -> None:
    before = digests(run_dir)
    reports = list(verify_run(open_storage(str(run_dir))))
    assert [(report.step, report.is_good) for report in reports] == [
        (1, True),
        (2, True),
    ]
    files = list((run_dir / "checkpoints").glob("ckpt-1.[di]*"))
    assert reports[0].num_files == len(files) == 2
    assert reports[0].size_bytes == sum(file.stat().st_size for file in files)
    assert digests(run_dir) == before


def test_every_damaged_byte_of_every_file_is_found(tmp_path: Path) -> None:
    """Of a checkpoint of a small state: each byte in turn, and each length."""
    state = small_state(size=4)
    # Of a time with 17 digits the last may be another and the number the same.
    options = SaveOptions(clock=lambda: 1000.0)
    with Checkpointer(str(tmp_path), options=options) as checkpointer:
        checkpointer.restore_or_initialize(state)
        checkpointer.save(state)
    files = sorted((tmp_path / "checkpoints").glob("ckpt-0.*"))
    assert [path.suffix for path in files] == [
        ".data-00000-of-00001",
        ".index",
        ".json",
    ]
    for path in files:
        content = path.read_bytes()
        for position in range(len(content)):
            changed = bytearray(content)
            changed[position] ^= 1
            path.write_bytes(changed)
            assert problems(tmp_path)[0], (path, position)
        # The manifest's last byte is a line's end and says nothing.
        for length in range(len(content) - 1):
            path.write_bytes(content[:length])
            assert problems(tmp_path)[0], (path, length)
        path.write_bytes(content)
    assert problems(tmp_path) == {0: ()}


def test_all_problems_of_a_checkpoint_are_told(run_dir: Path) -> None:
    for path in (run_dir / "checkpoints").glob("ckpt-1.[di]*"):
        path.unlink()
    found = problems(run_dir)
    assert len(found[1]) == 2
    assert all("is missing" in line for line in found[1])
    assert found[2] == ()


def test_one_step_can_be_asked_for(run_dir: Path) -> None:
    storage = open_storage(str(run_dir))
    assert [report.step for report in verify_run(storage, steps=[2])] == [2]
    with pytest.raises(NoCheckpointError, match="no checkpoint of step 3"):
        list(verify_run(storage, steps=[3]))


def test_it_needs_no_tensorflow(run_dir: Path) -> None:
    code = (
        "import sys\n"
        "from resumable_tf.checkpoint.integrity import verify_run\n"
        "from resumable_tf.storage import open_storage\n"
        "good = [r.is_good for r in verify_run(open_storage(sys.argv[1]))]\n"
        "print(good, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[True, True] False", done.stderr
