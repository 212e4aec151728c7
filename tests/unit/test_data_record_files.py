"""A damaged, changed or incomplete record set is never opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.records import random_rows, write_records
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.data.packing import FIELDS
from resumable_tf.data.record_files import RECORDS_FILE, RecordSet, RowLayout
from resumable_tf.errors import DataFormatError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_records(tmp_path, (4, 4, 2))
    return tmp_path


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / RECORDS_FILE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 10))
def test_rows_are_decoded_as_they_were_encoded(
    source_length: int, target_length: int, num_rows: int
) -> None:
    layout = RowLayout(source_length, target_length)
    rows = random_rows(num_rows, layout, first_id=0)
    content = layout.encode(rows)
    assert len(content) == 2 * num_rows * layout.row_width
    flat = np.frombuffer(content, "<u2").reshape(num_rows, layout.row_width)
    decoded = layout.decode(flat)
    for name in FIELDS:
        assert decoded[name].dtype == np.int32
        np.testing.assert_array_equal(decoded[name].numpy(), rows[name])


def test_opened_set_is_the_written_one(directory: Path) -> None:
    records, _ = write_records(directory, (4, 4, 2))
    for verify in (False, True):
        assert RecordSet.open(str(directory), verify=verify) == records
    assert RecordSet.open(f"file://{directory}").fingerprint == records.fingerprint


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("size", [0, 1, -2])
def test_shard_of_another_size_is_refused(
    directory: Path, size: int, verify: bool
) -> None:
    path = directory / "train-00001-of-00003.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        DataFormatError, match=r"(?s)train-00001.*delete the direc"
    ) as e:
        RecordSet.open(str(directory), verify=verify)
    assert e.value.path == str(path)


def test_missing_shard_is_refused(directory: Path) -> None:
    (directory / "validation-00000-of-00001.bin").unlink()
    with pytest.raises(
        DataFormatError, match=r"validation-00000-of-00001.bin: None byt"
    ):
        RecordSet.open(str(directory))


@pytest.mark.parametrize("position", [0, 57, -1])
def test_one_flipped_bit_is_found_by_verify(directory: Path, position: int) -> None:
    path = directory / "train-00002-of-00003.bin"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    RecordSet.open(str(directory))
    with pytest.raises(DataFormatError, match=r"train-00002.*crc32c.*damaged"):
        RecordSet.open(str(directory), verify=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["layout"].update(source_length=4),
        lambda c: c["splits"]["train"].update(num_rows=9),
        lambda c: c["splits"]["train"]["shards"].reverse(),
        lambda c: c["splits"]["train"]["shards"][0].update(crc32c="00000000"),
        lambda c: c["splits"]["train"]["shards"].pop(),
        lambda c: c.update(tokenizer="another"),
        lambda c: c.update(fingerprint="0" * 64),
        lambda c: c.pop("fingerprint"),
    ],
)
def test_json_changed_by_hand_is_refused(
    directory: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(directory, change)
    with pytest.raises(DataFormatError, match=r"changed by hand|missing .*fingerprint"):
        RecordSet.open(str(directory))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("splits"), "incomplete: .*missing.*'splits'"),
        (lambda c: c.pop("source"), "incomplete: .*missing.*'source'"),
        (lambda c: c["splits"]["train"].pop("shards"), "incomplete: .*missing"),
        (lambda c: c["splits"]["train"].update(more=1), "incomplete: .*unknown"),
        (lambda c: c.update(splits=[]), "incomplete"),
        (lambda c: c.update(layout=3), "incomplete: .*layout is 3"),
        *(
            (
                lambda c, file=file: c["splits"]["train"]["shards"][0].update(
                    file=file
                ),
                "incomplete: .*file is",
            )
            for file in ("../outside", "/etc/passwd", "records.json", "a\\b", 7)
        ),
        (
            lambda c: c.update(format_version=2),
            "format version 2, this version reads 1",
        ),
    ],
)
def test_json_of_another_form_is_refused(
    directory: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(directory, change)
    with pytest.raises(DataFormatError, match=message):
        RecordSet.open(str(directory))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"3", b"[]", b"null"])
def test_json_that_is_none_is_refused(directory: Path, content: bytes) -> None:
    (directory / RECORDS_FILE).write_bytes(content)
    with pytest.raises(DataFormatError, match=r"records.json: (not JSON|incomplete)"):
        RecordSet.open(str(directory))


def test_directory_without_records_json_holds_no_record_set(directory: Path) -> None:
    (directory / RECORDS_FILE).unlink()
    with pytest.raises(DataFormatError, match="no prepared record set"):
        RecordSet.open(str(directory))


def test_fingerprint_follows_what_training_sees_and_not_where_it_came_from(
    directory: Path,
) -> None:
    records = RecordSet.open(str(directory))
    moved = replace(records, directory="/elsewhere", source="other", dropped={"a": 1})
    assert moved.fingerprint == records.fingerprint
    other_rows, _ = write_records(directory / "other", (4, 4, 3))
    changed = [replace(records, layout=RowLayout(4, 4)), other_rows]
    changed.append(replace(records, tokenizer="another"))
    assert len({r.fingerprint for r in (records, *changed)}) == 4
