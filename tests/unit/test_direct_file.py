"""A file written past the page cache holds what was appended, wherever it is."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from resumable_tf.storage import direct_file
from resumable_tf.storage.direct_file import DirectFile
from resumable_tf.storage.protocol import CHUNK_BYTES

SIZES = [0, 1, 4095, 4096, 4097, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5000]


def bytes_of(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_direct", [True, False])
def test_a_file_holds_what_was_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, is_direct: bool
) -> None:
    if not is_direct:
        monkeypatch.setattr(direct_file, "_O_DIRECT", 0)
    pieces = [bytes_of(size), b"x", bytes_of(size)]
    with DirectFile(str(tmp_path / "file")) as file:
        for piece in pieces:
            # NumPy refuses an empty buffer; so do callers.
            if piece:
                assert file.append(piece) == google_crc32c.value(piece)
        assert file.size == 2 * size + 1
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


def test_a_file_system_without_direct_writing_gets_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some refuse it at once (tmpfs), some at the first write."""
    data = bytes_of(CHUNK_BYTES + 77)
    real_set, real_write = fcntl.fcntl, os.pwrite
    refused: list[str] = []

    def refuse_flag(descriptor: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL and flags & os.O_DIRECT:
            refused.append("flag")
            raise OSError(errno.EINVAL, "no direct I/O")
        return real_set(descriptor, command, flags)

    def refuse_write(descriptor: int, data: Any, offset: int) -> int:
        if real_set(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append("pwrite")
            raise OSError(errno.EINVAL, "no direct I/O")
        return real_write(descriptor, data, offset)

    for name, place, double in (
        ("fcntl", direct_file.fcntl, refuse_flag),
        ("pwrite", direct_file.os, refuse_write),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, double)
            with DirectFile(str(tmp_path / name)) as file:
                file.append(data)
        assert (tmp_path / name).read_bytes() == data
    assert refused == ["flag", "pwrite"]


def test_a_file_that_is_there_is_anothers_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"another's")
    for bypasses in (False, True):
        with pytest.raises(FileExistsError, match=str(path)):
            DirectFile(str(path), bypasses_cache=bypasses)
    assert path.read_bytes() == b"another's"


def test_a_file_that_is_read_next_is_written_through_the_cache(tmp_path: Path) -> None:
    for bypasses in (False, True):
        path = str(tmp_path / f"{bypasses}")
        with DirectFile(path, bypasses_cache=bypasses) as file:
            flags = fcntl.fcntl(file._descriptor, fcntl.F_GETFL)
        assert bool(flags & os.O_DIRECT) == bypasses


def test_writes_that_are_cut_short_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(
        direct_file.os, "pwrite", lambda d, data, at: real(d, data[:12288], at)
    )
    data = bytes_of(100_000)
    with DirectFile(str(tmp_path / "file")) as file:
        file.append(data)
    assert (tmp_path / "file").read_bytes() == data


def test_an_error_of_the_disk_comes_through_and_the_file_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(direct_file.os, "pwrite", full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="full"), DirectFile(str(tmp_path / "f")) as file:
        file.append(bytes_of(CHUNK_BYTES))
    with pytest.raises(OSError, match="full"), DirectFile(str(tmp_path / "g")) as file:
        file.append(b"less than a block")
    assert len(os.listdir("/proc/self/fd")) == before
