"""What single storages add to the contract."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from resumable_tf.errors import UsageError
from resumable_tf.storage import LocalStorage, ObjectStorage, open_storage


def test_open_storage_tells_paths_from_urls(tmp_path: Path) -> None:
    assert isinstance(open_storage(str(tmp_path)), LocalStorage)
    assert isinstance(open_storage(tmp_path), LocalStorage)
    assert open_storage(f"file://{tmp_path}").root == str(tmp_path)
    assert isinstance(open_storage("memory://x/y"), ObjectStorage)
    assert isinstance(open_storage("gs://bucket/run"), ObjectStorage)


def test_open_storage_refuses_an_empty_path() -> None:
    with pytest.raises(UsageError, match="gs://"):
        open_storage("")


def test_opening_touches_nothing(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "run"))
    assert storage.list("") == []
    assert not (tmp_path / "run").exists()


def test_relative_paths_stay_valid_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = open_storage("run")
    storage.write_bytes("a", b"1")
    monkeypatch.chdir("/")
    assert storage.read_bytes("a") == b"1"


def test_local_write_that_fails_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(str(tmp_path))
    storage.write_bytes("a", b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("injected")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="injected"):
        storage.write_bytes("a", b"new")
    assert storage.read_bytes("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_partial_writes_are_invisible_and_removable(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    storage.write_bytes("d/a", b"1")
    (tmp_path / "d" / ".partial-of-a-killed-process").write_bytes(b"half")
    assert storage.list("d") == ["d/a"]
    storage.remove_partial_writes("d")
    assert os.listdir(tmp_path / "d") == ["a"]


class Broken:
    """Makes a function of `os` fail for paths that end in a certain way."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, function: str, end: str, number: int
    ) -> None:
        real = getattr(os, function)

        def fail(path: Any, *rest: Any, **named: Any) -> Any:
            directory = named.get("dir_fd", named.get("src_dir_fd"))
            whole = path
            if isinstance(path, int):
                whole = os.readlink(f"/proc/self/fd/{path}")
            elif directory is not None:
                whole = f"{os.readlink(f'/proc/self/fd/{directory}')}/{path}"
            if whole.endswith(end):
                raise OSError(number, os.strerror(number), path)
            return real(path, *rest, **named)

        monkeypatch.setattr(os, function, fail)


ERRORS = [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE]


@pytest.mark.parametrize("number", ERRORS)
def test_a_directory_that_can_not_be_read_is_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Else a start would take a run for a new one."""
    storage = LocalStorage(str(tmp_path))
    storage.write_bytes("d/e/a", b"1")
    Broken(monkeypatch, "scandir", "/e", number)
    for directory in ("", "d", "d/e"):
        for operation in (storage.list, storage.remove_partial_writes):
            with pytest.raises(OSError, match=os.strerror(number)):
                operation(directory)


@pytest.mark.parametrize("number", ERRORS)
def test_a_file_that_can_not_be_looked_at_is_not_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    storage = LocalStorage(str(tmp_path))
    storage.write_bytes("d/a", b"1")
    Broken(monkeypatch, "stat", "a", number)
    with pytest.raises(OSError, match=os.strerror(number)):
        storage.exists("d/a")
    with pytest.raises(OSError, match=os.strerror(number)):
        storage.replace("d/a", b"2", version="")
    Broken(monkeypatch, "link", "", errno.EPERM)
    with pytest.raises(OSError, match=os.strerror(number)):
        storage.create("d/a", b"2")
    assert storage.read_bytes("d/a") == b"1"


def test_what_is_below_a_file_is_not_there(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    storage.write_bytes("a", b"1")
    assert not storage.exists("a/b")
    assert storage.list("a") == storage.list("a/b") == []
    storage.remove_partial_writes("a")


def test_a_deletion_tells_of_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(str(tmp_path))
    for number in (errno.EACCES, errno.EBUSY):  # A directory more does no harm.
        storage.write_bytes("d/a", b"1")
        with monkeypatch.context() as patch:
            Broken(patch, "rmdir", "/d", number)
            storage.delete("d/a")
            storage.remove_partial_writes("")
        assert storage.list("") == []
    for function, end in (("rmdir", "/d"), ("open", "")):
        storage.write_bytes("d/a", b"1")
        with monkeypatch.context() as patch:
            Broken(patch, function, end, errno.EIO)
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                storage.delete("d/a")
    (tmp_path / "d").mkdir(exist_ok=True)
    Broken(monkeypatch, "rmdir", "/d", errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        storage.remove_partial_writes("")


def test_create_works_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    storage = LocalStorage(str(tmp_path))
    storage.create("a", b"1")
    with pytest.raises(FileExistsError):
        storage.create("a", b"2")
    assert storage.read_bytes("a") == b"1"
    assert os.listdir(tmp_path) == ["a"]


def test_files_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    previous = os.umask(0o022)
    try:
        storage.write_bytes("a", b"1")
    finally:
        os.umask(previous)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_create_accepts_its_own_object_after_a_lost_answer() -> None:
    """A retried conditional request finds what its first try has written."""
    storage = ObjectStorage("memory://lost-answer/run")
    storage.create("commit", b"mine")
    storage.create("commit", b"mine")
    with pytest.raises(FileExistsError):
        storage.create("commit", b"other")


def test_gcs_listings_are_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def record(url: str, **options: object) -> tuple[object, str]:
        seen.update(options)
        raise OSError("no network in tests")

    monkeypatch.setattr("fsspec.core.url_to_fs", record)
    with pytest.raises(OSError, match="no network"):
        open_storage("gs://bucket/run").exists("a")
    assert seen == {"use_listings_cache": False}


def test_upload_notices_an_object_that_arrived_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = ObjectStorage("memory://changed/run")
    source = tmp_path / "source"
    source.write_bytes(b"contents")
    files, _ = storage._at("")
    info = type(files).info
    monkeypatch.setattr(
        type(files), "info", lambda self, path: {**info(self, path), "size": 3}
    )
    with pytest.raises(OSError, match="3 bytes after the upload of 8"):
        storage.upload("a", str(source))
