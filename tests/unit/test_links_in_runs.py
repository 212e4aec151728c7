"""Links in a run directory: each works or is refused at the start, with its target.

Guards against an endless silent loop, against a run that begins anew because the disk
that holds it is not mounted, and against writing, moving or deleting through a link.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.saved_runs import steps_in
from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.checkpoint.lease import Lease
from resumable_tf.errors import StorageError, UnsafeFileError
from resumable_tf.storage import LocalStorage


def train(run_dir: Path, to_step: int) -> int:
    state = small_state()
    with Checkpointer(str(run_dir), every_steps=1) as checkpointer:
        checkpointer.restore_or_initialize(state)
        begin = state.step
        while state.step < to_step:
            advance(state)
            checkpointer.maybe_save(state)
    return begin


def test_a_run_directory_may_be_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    assert train(tmp_path / "run", 2) == 0
    assert train(tmp_path / "run", 3) == 2
    assert steps_in(tmp_path / "disk") == [1, 2, 3]


def test_a_run_directory_whose_disk_is_not_mounted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    with pytest.raises(StorageError, match=r"run is a link to .*disk/run.* mount it"):
        train(tmp_path / "run", 1)
    state = small_state()
    with Checkpointer(str(tmp_path / "run"), every_steps=1) as checkpointer:
        advance(state)
        with pytest.raises(StorageError, match="is a link to"):
            checkpointer.save(state)
    assert not (tmp_path / "disk").exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize(
    "name",
    ["checkpoints", "checkpoints/superseded", "checkpoints/quarantine", "pins"],
)
def test_a_linked_directory_of_a_run_is_refused_at_the_start(
    tmp_path: Path, name: str, is_there: bool
) -> None:
    train(tmp_path / "run", 2)
    link, target = tmp_path / "run" / name, tmp_path / "disk"
    if link.exists():
        link.rename(target)
    elif is_there:
        target.mkdir()
        (target / "ckpt-1.1").mkdir()
        (target / "ckpt-1.1" / "mine").write_bytes(b"x")
    link.symlink_to(target if is_there else tmp_path / "unmounted")
    before = sorted(path for path in tmp_path.rglob("*") if "lease" not in path.name)
    with pytest.raises(StorageError, match=f"{name} is a link to {tmp_path}/"):
        train(tmp_path / "run", 3)
    after = sorted(path for path in tmp_path.rglob("*") if "lease" not in path.name)
    assert before == after


def test_other_links_are_left_alone_and_followed_by_nothing(tmp_path: Path) -> None:
    train(tmp_path / "run", 2)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "ckpt-9.manifest.json").write_bytes(b"{}")
    (tmp_path / "run" / "checkpoints" / "old").symlink_to(kept)
    (tmp_path / "run" / "notes").symlink_to(kept)
    assert train(tmp_path / "run", 5) == 2
    assert os.listdir(kept) == ["ckpt-9.manifest.json"]
    assert (tmp_path / "run" / "checkpoints" / "old").is_symlink()


@pytest.mark.timeout(20)
def test_a_lease_that_is_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lease.json").symlink_to(tmp_path / "gone")
    with pytest.raises(UnsafeFileError, match=r"lease\.json is a symbolic link to .*g"):
        train(tmp_path, 1)
    assert not (tmp_path / "gone").exists()


def test_a_lease_that_is_a_link_is_refused_and_its_target_stays(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"of somebody")
    run = tmp_path / "run"
    run.mkdir()
    (run / "lease.json").symlink_to(other)
    with pytest.raises(UnsafeFileError, match=r"lease\.json is a symbolic link to .*o"):
        train(run, 1)
    assert other.read_bytes() == b"of somebody"


@pytest.mark.timeout(20)
def test_a_lease_that_never_can_be_made_is_no_endless_loop(tmp_path: Path) -> None:
    class Stubborn(LocalStorage):
        num_tries = 0

        def create(self, name: str, data: bytes) -> None:
            self.num_tries += 1
            raise FileExistsError("injected")

    storage = Stubborn(str(tmp_path))
    with pytest.raises(StorageError, match=r"could not be taken in 5 tries: injected"):
        Lease(storage).take()
    assert storage.num_tries == 5


def test_no_operation_of_a_storage_goes_through_a_link(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path / "root"))
    storage.write_bytes("d/a", b"1")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b").write_bytes(b"2")
    (tmp_path / "root" / "link").symlink_to(outside)
    source = tmp_path / "source"
    source.write_bytes(b"3")
    for operation in (
        lambda: storage.write_bytes("link/b", b"9"),
        lambda: storage.write_bytes("link/new/c", b"9"),
        lambda: storage.create("link/c", b"9"),
        lambda: storage.upload("link/c", str(source)),
        lambda: storage.move("d/a", "link/a"),
        lambda: storage.move("link/b", "d/b"),
        lambda: storage.delete("link/b"),
        lambda: storage.replace("link/b", b"9", version=""),
        lambda: storage.delete_version("link/b", version=""),
        lambda: storage.make_dirs("link/e"),
        lambda: storage.list("link"),
        lambda: storage.exists("link/b"),
        lambda: storage.sync("link/b"),
        lambda: storage.remove_partial_writes("link"),
        lambda: storage.remove_dead_writes("link"),
    ):
        with pytest.raises(StorageError, match="link is a link to"):
            operation()
    storage.remove_partial_writes("")
    assert os.listdir(outside) == ["b"] and (outside / "b").read_bytes() == b"2"
    assert storage.read_bytes("d/a") == b"1"


@pytest.mark.parametrize("name", ["../a", "d/../../a", "./a", "d//a", "", "d/"])
def test_no_name_leads_out_of_a_storage(tmp_path: Path, name: str) -> None:
    storage = LocalStorage(str(tmp_path / "root"))
    for operation in (
        lambda: storage.write_bytes(name, b"1"),
        lambda: storage.delete(name),
    ):
        with pytest.raises(ValueError, match="is no name of a file"):
            operation()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "directory", "hard link"])
def test_what_is_in_place_of_a_file_is_replaced_or_refused_and_not_written_to(
    tmp_path: Path, kind: str
) -> None:
    storage = LocalStorage(str(tmp_path / "root"))
    storage.write_bytes("other", b"1")
    outside, path = tmp_path / "outside", tmp_path / "root" / "file"
    if kind != "dangling":
        outside.write_bytes(b"mine")
    if kind in ("link", "dangling"):
        path.symlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.hardlink_to(outside)
    if kind == "directory":
        with pytest.raises(IsADirectoryError, match=str(path)):
            storage.write_bytes("file", b"2")
    else:
        storage.write_bytes("file", b"2")
        assert path.read_bytes() == b"2" and not path.is_symlink()
    assert outside.exists() == (kind != "dangling")
    assert kind == "dangling" or outside.read_bytes() == b"mine"


def test_resumes_through_the_link_are_exact(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    train(tmp_path / "run", 3)
    state = small_state()
    Checkpointer(str(tmp_path / "run")).restore(state)
    assert_at_step(state, 3)
