"""Reading a run that another process trains, and one on a disk that loses data.

Guards against a raw error of TensorFlow or the system where an older one is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.saved_runs import save_steps
from helpers.small_state import Small, assert_at_step, small_state
from helpers.two_tiers import Machine

from resumable_tf.checkpoint import Catalog, Checkpointer
from resumable_tf.checkpoint import restoring as restoring_module
from resumable_tf.errors import CheckpointCorruptError
from resumable_tf.serving import run_loader
from resumable_tf.state import TrainState
from resumable_tf.storage import LocalStorage, Storage, open_storage

Delete = Callable[[Path, int], None]


def delete_all(run_dir: Path, step: int) -> None:
    Catalog(open_storage(str(run_dir))).delete([step])


def delete_values(run_dir: Path, step: int) -> None:
    """As far as a retention under way may have come: the index is there still."""
    (run_dir / f"checkpoints/ckpt-{step}.manifest.json").unlink()
    for path in run_dir.glob(f"checkpoints/ckpt-{step}.data-*"):
        path.unlink()


@pytest.fixture(params=[delete_all, delete_values])
def delete_after_verifying(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Deletes the newest checkpoint between the two looks at it."""
    real, doomed = restoring_module.open_bundle, [3]

    @contextlib.contextmanager
    def racing(storage: Storage, manifest: Any) -> Iterator[str]:
        with real(storage, manifest) as path:
            if manifest.step in doomed:
                doomed.clear()
                request.param(tmp_path, manifest.step)
            yield path

    for module in (restoring_module, run_loader):
        monkeypatch.setattr(module, "open_bundle", racing)


def save_models(run_dir: Path) -> None:
    state = TrainState(model=Small())
    with Checkpointer(str(run_dir)) as checkpointer:
        for step in (1, 2, 3):
            state.step = step
            state.trackables["model"].counter.assign(step)
            checkpointer.save(state).result()


def open_run(run_dir: Path) -> run_loader.Run:
    return run_loader.Run(open_storage(str(run_dir)), {}, "")


def unreadable(
    monkeypatch: pytest.MonkeyPatch, directory: str | Path, step: int, number: int
) -> None:
    """Lets a manifest fail to be read."""
    name = f"checkpoints/ckpt-{step}.manifest.json"
    read = LocalStorage.read_bytes

    def failing(storage: LocalStorage, other: str, **limit: int) -> bytes:
        if other == name and storage.root == str(directory):
            raise OSError(number, os.strerror(number), other)
        return read(storage, other, **limit)

    monkeypatch.setattr(LocalStorage, "read_bytes", failing)


@pytest.mark.usefixtures("delete_after_verifying")
class TestDeletedBetweenVerifyingAndReading:
    @pytest.fixture(autouse=True)
    def run(self, tmp_path: Path) -> None:
        save_steps(tmp_path, 1, 2, 3)

    def test_the_one_before_is_restored(self, tmp_path: Path) -> None:
        state = small_state()
        assert Checkpointer(str(tmp_path)).restore(state).step == 2
        assert_at_step(state, 2)

    def test_a_certain_one_is_gone_and_nothing_is_touched(self, tmp_path: Path) -> None:
        state = small_state()
        with pytest.raises(CheckpointCorruptError, match="deleted meanwhile"):
            Checkpointer(str(tmp_path)).restore(state, 3)
        assert_at_step(state, 0)


@pytest.mark.usefixtures("delete_after_verifying")
def test_a_model_is_read_from_the_one_before(tmp_path: Path) -> None:
    save_models(tmp_path)
    model = Small()
    assert open_run(tmp_path).restore_model(model).step == 2
    assert model.counter.numpy() == 2


@pytest.mark.usefixtures("delete_after_verifying")
def test_a_certain_model_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    save_models(tmp_path)
    with pytest.raises(CheckpointCorruptError, match="deleted meanwhile"):
        open_run(tmp_path).restore_model(Small(), step=3)


def test_an_error_that_is_no_deletion_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(tmp_path, 1)
    unreadable(monkeypatch, tmp_path, 1, errno.EACCES)
    with pytest.raises(
        CheckpointCorruptError, match=r"left in place.*Permission denied"
    ):
        Checkpointer(str(tmp_path)).restore(small_state())


@pytest.mark.parametrize("restore", ["restore", "restore_or_initialize"])
def test_a_manifest_that_can_not_be_read_is_as_bad_as_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore: str
) -> None:
    save_steps(tmp_path, 1, 2)
    unreadable(monkeypatch, tmp_path, 2, errno.EIO)
    state = small_state()
    with Checkpointer(str(tmp_path)) as checkpointer:
        assert getattr(checkpointer, restore)(state).step == 1
    assert_at_step(state, 1)
    is_moved = restore == "restore_or_initialize"
    assert bool(Catalog(open_storage(str(tmp_path))).quarantined()) == is_moved


def test_so_it_is_with_a_fast_tier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest says whether the fast tier counts."""
    here = Machine(tmp_path)
    here.train(6)
    unreadable(monkeypatch, here.run_dir, 5, errno.EIO)
    assert here.restored() == 6
    with pytest.raises(CheckpointCorruptError, match="Input/output error"):
        here.checkpointer().restore(small_state(), 5)
    assert here.train(7) == 6
    assert here.steps() == ([5, 6, 7], [7])


def test_a_model_is_read_over_a_manifest_that_can_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_models(tmp_path)
    unreadable(monkeypatch, tmp_path, 3, errno.EIO)
    assert open_run(tmp_path).restore_model(Small()).step == 2
