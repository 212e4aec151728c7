"""An odd newest manifest is reported and set aside; the one before is taken."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.saved_runs import save_steps
from helpers.small_state import assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.checkpoint.sealed_json import seal
from resumable_tf.errors import CheckpointVersionError

NEWEST = "ckpt-2.manifest.json"


def with_fields(**changes: Any) -> Callable[[Path], None]:
    """Returns what changes a manifest, with a checksum that fits."""

    def change(path: Path) -> None:
        fields = json.loads(path.read_text())
        del fields["crc32c"]
        path.write_text(json.dumps(seal({**fields, **changes})))

    return change


def named(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        files = json.loads(path.read_text())["files"]
        with_fields(files=[{**files[0], "name": name}, *files[1:]])(path)

    return change


def replaced(put: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        put(path)

    return change


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 * 2**30)


ODD: dict[str, Callable[[Path], None]] = {
    "NUL in a name": named("a\0b"),
    "half a character in a name": named("a\ud800"),
    "300 bytes in a name": named("a" * 300),
    "a name elsewhere": named("../../run.json"),
    "a file of another step": named("ckpt-1.index"),
    "no files": with_fields(files=[]),
    "another step": with_fields(step=1),
    "a negative step": with_fields(step=-2),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "many digits": lambda path: path.write_bytes(b'{"step": ' + b"9" * 5000 + b"}"),
    "a dangling link": replaced(lambda path: path.symlink_to("nowhere")),
    "a link": replaced(lambda path: path.symlink_to("ckpt-1.manifest.json")),
    "an endless device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a pipe": replaced(lambda path: os.mkfifo(path)),
    "5 GiB": make_sparse,
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_the_one_before_is_taken_and_nothing_is_lost(
    tmp_path: Path, odd: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    save_steps(tmp_path, 1, 2)
    odd(tmp_path / "checkpoints" / NEWEST)
    state = small_state()
    with caplog.at_level(logging.WARNING), Checkpointer(str(tmp_path)) as checkpointer:
        info = checkpointer.restore_or_initialize(state)
    assert info is not None and info.step == 1
    assert_at_step(state, 1)
    assert "checkpoint 2 is damaged" in caplog.text
    aside = tmp_path / "checkpoints" / "quarantine" / "ckpt-2.1"
    names = {path.name for path in aside.iterdir()}
    assert {NEWEST, "ckpt-2.index", "ckpt-2.data-00000-of-00001"} <= names


@pytest.mark.parametrize("name", ["ckpt-0099.manifest.json", "ckpt-02.manifest.json"])
def test_a_number_that_is_written_otherwise_is_no_checkpoint(
    tmp_path: Path, name: str
) -> None:
    save_steps(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints"
    (folder / name).write_bytes((folder / NEWEST).read_bytes())
    state = small_state()
    with Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.restore_or_initialize(state)
    assert_at_step(state, 2)
    assert (folder / name).exists()


def test_one_of_a_newer_version_stops_the_start_and_stays(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2)
    path = tmp_path / "checkpoints" / NEWEST
    with_fields(format_version=2, surprise=1)(path)
    data = path.read_bytes()
    with (
        Checkpointer(str(tmp_path)) as checkpointer,
        pytest.raises(CheckpointVersionError, match="newer resumable-tf"),
    ):
        checkpointer.restore_or_initialize(small_state())
    assert path.read_bytes() == data
