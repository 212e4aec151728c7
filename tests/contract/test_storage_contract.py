"""Every storage behaves alike. Guards against a backend that differs in a corner."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import google_crc32c
import pytest

from resumable_tf.storage import Storage, open_storage
from resumable_tf.storage.protocol import CHUNK_BYTES


@pytest.fixture(params=["local", "memory", "gs"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(str(tmp_path / "run"))
    if request.param == "gs":
        request.getfixturevalue("fake_gcs")
        return open_storage("gs://bucket/runs/one")
    return open_storage(f"memory://contract-{uuid4().hex}/run")


def test_written_bytes_are_read_back(storage: Storage) -> None:
    storage.write_bytes("a/b/c.bin", b"\x00\x01")
    assert storage.read_bytes("a/b/c.bin") == b"\x00\x01"
    assert b"".join(storage.read_chunks("a/b/c.bin")) == b"\x00\x01"
    assert storage.size("a/b/c.bin") == 2
    assert storage.exists("a/b/c.bin")


def test_write_replaces_the_whole_file(storage: Storage) -> None:
    storage.write_bytes("a.txt", b"long contents")
    storage.write_bytes("a.txt", b"short")
    assert storage.read_bytes("a.txt") == b"short"


def test_empty_files_exist(storage: Storage) -> None:
    storage.write_bytes("empty", b"")
    assert storage.exists("empty")
    assert storage.size("empty") == 0
    assert list(storage.read_chunks("empty")) == []


def test_large_files_are_streamed_in_bounded_chunks(storage: Storage) -> None:
    data = bytes(range(256)) * (CHUNK_BYTES // 256) + b"tail"
    storage.write_bytes("large", data)
    chunks = list(storage.read_chunks("large"))
    assert max(map(len, chunks)) <= CHUNK_BYTES
    assert b"".join(chunks) == data


def test_upload_copies_a_local_file(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * (CHUNK_BYTES + 1))
    storage.upload("d/target", str(source))
    assert storage.read_bytes("d/target") == source.read_bytes()
    assert storage.list("") == ["d/target"]


@pytest.mark.parametrize("is_hashed", [True, False])
def test_upload_accepts_what_has_arrived_and_overwrites_nothing_else(
    storage: Storage, tmp_path: Path, is_hashed: bool
) -> None:
    """Also if only the bits differ, as of two processes at the same step."""
    source = tmp_path / "source"
    source.write_bytes(b"mine")
    checksum = f"{google_crc32c.value(b'mine'):08x}" if is_hashed else None
    for _ in range(2):
        storage.upload("d/target", str(source), checksum=checksum)
    for others in (b"hers", b"another's", b""):
        storage.write_bytes("d/target", others)
        with pytest.raises(FileExistsError, match=r"d/target.*another process"):
            storage.upload("d/target", str(source), checksum=checksum)
        assert storage.read_bytes("d/target") == others
        assert storage.list("") == ["d/target"]


def test_create_writes_a_new_file(storage: Storage) -> None:
    storage.create("commit", b"mine")
    assert storage.read_bytes("commit") == b"mine"


def test_create_refuses_what_exists_and_leaves_it(storage: Storage) -> None:
    storage.create("commit", b"first")
    with pytest.raises(FileExistsError):
        storage.create("commit", b"second")
    assert storage.read_bytes("commit") == b"first"
    assert storage.list("") == ["commit"]


@pytest.mark.parametrize("method", ["read_bytes", "size", "read_version"])
def test_missing_files_raise_file_not_found(storage: Storage, method: str) -> None:
    with pytest.raises(FileNotFoundError):
        getattr(storage, method)("nothing/here")


def test_missing_files_raise_when_streamed(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        list(storage.read_chunks("nothing/here"))


def test_list_names_all_files_below_and_no_others(storage: Storage) -> None:
    for name in ("d/b", "d/a", "d/sub/c", "e/x", "dd/y"):
        storage.write_bytes(name, b"1")
    assert storage.list("d") == ["d/a", "d/b", "d/sub/c"]
    assert storage.list("") == ["d/a", "d/b", "d/sub/c", "dd/y", "e/x"]
    assert storage.list("nothing") == []


def test_delete_removes_one_file_and_accepts_missing_ones(storage: Storage) -> None:
    storage.write_bytes("d/a", b"1")
    storage.write_bytes("d/b", b"1")
    storage.delete("d/a")
    storage.delete("d/a")
    storage.delete("never/there")
    assert storage.list("") == ["d/b"]
    assert not storage.exists("d/a")


def test_files_can_be_written_where_all_were_deleted(storage: Storage) -> None:
    storage.make_dirs("d/e")
    storage.write_bytes("d/e/a", b"1")
    storage.delete("d/e/a")
    assert storage.list("") == []
    storage.write_bytes("d/e/a", b"2")
    assert storage.read_bytes("d/e/a") == b"2"


def test_move_renames_and_replaces(storage: Storage) -> None:
    storage.write_bytes("a", b"new")
    storage.write_bytes("deep/down/b", b"old")
    storage.move("a", "deep/down/b")
    assert storage.read_bytes("deep/down/b") == b"new"
    assert storage.list("") == ["deep/down/b"]


def test_replace_writes_over_the_version_that_was_read(storage: Storage) -> None:
    storage.create("a", b"1")
    data, version = storage.read_version("a")
    assert data == b"1"
    newer = storage.replace("a", b"2", version=version)
    assert storage.read_version("a") == (b"2", newer)
    assert newer != version


def test_replace_refuses_another_version_and_leaves_it(storage: Storage) -> None:
    storage.create("a", b"1")
    _, version = storage.read_version("a")
    storage.write_bytes("a", b"2")
    with pytest.raises(FileExistsError):
        storage.replace("a", b"3", version=version)
    assert storage.read_bytes("a") == b"2"
    storage.delete("a")
    with pytest.raises(FileExistsError):
        storage.replace("a", b"3", version=version)
    assert not storage.exists("a")


def test_delete_version_refuses_another_version(storage: Storage) -> None:
    storage.create("a", b"1")
    _, old = storage.read_version("a")
    version = storage.replace("a", b"2", version=old)
    with pytest.raises(FileExistsError):
        storage.delete_version("a", version=old)
    assert storage.read_bytes("a") == b"2"
    storage.delete_version("a", version=version)
    storage.delete_version("a", version=version)
    assert not storage.exists("a")


def test_sync_and_remove_partial_writes_leave_files_alone(storage: Storage) -> None:
    storage.write_bytes("d/a", b"1")
    storage.sync("d/a")
    storage.remove_partial_writes("d")
    assert storage.read_bytes("d/a") == b"1"


def test_directories_are_not_files(storage: Storage) -> None:
    storage.write_bytes("d/a", b"1")
    assert not storage.exists("d")


def test_locate_gives_an_absolute_place(storage: Storage) -> None:
    assert storage.locate("d/a") == f"{storage.root}/d/a"
    assert storage.locate("") == storage.root


def test_another_instance_sees_the_same_files(storage: Storage) -> None:
    other = open_storage(storage.root)
    assert other.list("") == []
    storage.write_bytes("d/a", b"1")
    assert other.list("d") == ["d/a"]
    other.delete("d/a")
    assert not storage.exists("d/a")
