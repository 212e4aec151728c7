"""Errors of the storage say what happened, to which file, and what helps."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.small_state import advance, small_state

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.checkpoint.layout import LEASE_FILE
from resumable_tf.checkpoint.lease import Lease
from resumable_tf.errors import FencedOffError, StorageError
from resumable_tf.storage import LocalStorage

ROOT = Path(__file__).parents[2]
NUMBERS = [errno.EIO, errno.ESTALE, errno.EDQUOT]


class Fails:
    """Makes a function of `os` fail a few times."""

    def __init__(
        self, patch: pytest.MonkeyPatch, function: str, number: int, times: int
    ) -> None:
        real, self.left = getattr(os, function), times

        def fail(*arguments: Any, **keywords: Any) -> Any:
            if self.left > 0:
                self.left -= 1
                raise OSError(number, os.strerror(number))
            return real(*arguments, **keywords)

        patch.setattr(os, function, fail)


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    slept: list[float] = []
    lease = Lease(LocalStorage(str(tmp_path)), sleep=slept.append)
    lease.take()
    return lease


@pytest.mark.parametrize("function", ["stat", "open", "fsync", "replace", "fstat"])
@pytest.mark.parametrize("number", NUMBERS)
def test_one_error_of_the_file_system_loses_no_lease(
    lease: Lease, monkeypatch: pytest.MonkeyPatch, number: int, function: str
) -> None:
    with monkeypatch.context() as patch:
        Fails(patch, function, number, 1)
        lease.verify()
    lease.release()


@pytest.mark.parametrize("function", ["stat", "fsync", "replace"])
@pytest.mark.parametrize("number", NUMBERS)
def test_one_that_stays_is_told_as_what_it_is_and_the_lease_is_still_held(
    lease: Lease, monkeypatch: pytest.MonkeyPatch, number: int, function: str
) -> None:
    with monkeypatch.context() as patch:
        failing = Fails(patch, function, number, 99)
        with pytest.raises(OSError, match=f"{os.strerror(number)}.*{LEASE_FILE}") as on:
            lease.verify()
        assert failing.left > 80
    assert on.value.errno == number and not isinstance(on.value, FencedOffError)
    lease.verify()
    lease.release()


def test_a_file_system_that_denies_an_own_file_says_so_and_not_another_writer(
    lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise FileExistsError(errno.EEXIST, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "replace", refuse)
        with pytest.raises(OSError, match="this process's and could not be renewed"):
            lease.verify()
    lease.verify()


def test_only_another_identity_in_the_file_is_another_writer(
    lease: Lease, tmp_path: Path
) -> None:
    os.unlink(tmp_path / LEASE_FILE)
    with pytest.raises(FencedOffError, match="was deleted or damaged") as caught:
        lease.verify()
    assert "another writer" not in str(caught.value)
    Lease(LocalStorage(str(tmp_path))).take()
    with pytest.raises(FencedOffError, match="to another writer"):
        lease.verify()


ADVICE = {
    errno.EROFS: "can only be read",
    errno.EACCES: "owner and the permissions",
    errno.ENOSPC: "free some space",
    errno.EIO: "kernel's log",
}


@pytest.mark.parametrize("number", list(ADVICE))
@pytest.mark.parametrize("function", ["mkdir", "fsync", "link"])
def test_an_error_at_the_start_names_the_file_and_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    run_dir = tmp_path / "run"
    made = Checkpointer(str(run_dir), every_steps=1)
    with monkeypatch.context() as patch:
        Fails(patch, function, number, 99)
        with pytest.raises(
            StorageError, match=rf"(?s){run_dir}.*{ADVICE[number]}"
        ) as on:
            made.restore_or_initialize(small_state())
    assert on.value.errno == number
    assert f"'{tmp_path}" in str(on.value) and "Errno" in str(on.value)


KILLED = """
import os, signal, sys
from resumable_tf.checkpoint.lease import Lease
from resumable_tf.storage import LocalStorage
os.link = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
Lease(LocalStorage(sys.argv[1])).take()
"""


def litter(run_dir: Path) -> list[str]:
    return [name for name in os.listdir(run_dir) if name.startswith(".partial-")]


def start(run_dir: Path) -> None:
    state = small_state()
    with Checkpointer(str(run_dir), every_steps=1) as checkpointer:
        checkpointer.restore_or_initialize(state)
        advance(state)
        checkpointer.maybe_save(state)


def test_what_a_kill_has_left_of_the_lease_goes_at_the_next_start(
    tmp_path: Path,
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    assert done.returncode == -9 and len(litter(tmp_path)) == 1
    start(tmp_path)
    assert litter(tmp_path) == []


def test_what_is_being_written_or_is_not_ours_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".partial-link").symlink_to(tmp_path / "target")
    (tmp_path / ".partial-directory").mkdir()
    os.mkfifo(tmp_path / ".partial-fifo")
    with open(tmp_path / ".partial-written-now", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        start(tmp_path)
    assert len(litter(tmp_path)) == 4
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    LocalStorage(str(tmp_path)).remove_dead_writes("")
    assert len(litter(tmp_path)) == 4
    monkeypatch.undo()
    LocalStorage(str(tmp_path)).remove_dead_writes("")
    assert ".partial-written-now" not in litter(tmp_path)


def test_without_locks_only_what_is_old_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    storage = LocalStorage(str(tmp_path))
    storage.write_bytes("a", b"1")
    (tmp_path / ".partial-young").write_bytes(b"")
    (tmp_path / ".partial-old").write_bytes(b"")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / ".partial-old", (long_ago, long_ago))
    storage.remove_dead_writes("")
    assert litter(tmp_path) == [".partial-young"]
