"""A bundle's checksums are those of its files, whatever the files hold."""

from __future__ import annotations

import os
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from helpers.small_state import advance, assert_at_step, small_state
from hypothesis import given
from hypothesis import strategies as st

import resumable_tf as rtf
from resumable_tf.checkpoint import data_files
from resumable_tf.checkpoint.bundle_index import read_spans
from resumable_tf.checkpoint.crc32c import combine
from resumable_tf.checkpoint.data_files import ShardBySize, describe


def crc32c_of(path: str | Path) -> str:
    return f"{google_crc32c.value(Path(path).read_bytes()):08x}"


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_the_checksum_of_a_whole_follows_from_those_of_its_parts(
    parts: list[bytes],
) -> None:
    checksum = 0
    for part in parts:
        checksum = combine(checksum, google_crc32c.value(part), len(part))
    assert checksum == google_crc32c.value(b"".join(parts))


def test_the_checksum_of_a_long_part_is_shifted_by_its_length() -> None:
    """Lengths beyond 32 bits need no data: zeros are appended piece by piece."""
    zeros = bytes(2**20)
    checksum = google_crc32c.value(b"begin")
    whole = checksum
    for _ in range(64):
        whole = google_crc32c.extend(whole, zeros)
    assert combine(checksum, google_crc32c.value(bytes(2**26)), 2**26) == whole


def write(prefix: Path, *, max_bytes: int) -> list[tf.Variable]:
    """Writes a bundle of many dtypes, among them strings and an empty tensor."""
    values = [
        np.arange(1000, dtype=np.float32),
        np.float32(3.0),
        np.zeros((0, 5), np.float32),
        np.array([b"", b"some", b"strings" * 50]),
        np.arange(77, dtype=np.int64),
        np.array([True, False]),
        np.ones((50, 50), np.float16),
    ]
    variables = [tf.Variable(value) for value in values]
    options = tf.train.CheckpointOptions()
    options.experimental_sharding_callback = ShardBySize(max_bytes)
    tf.train.Checkpoint(values=variables).write(str(prefix), options=options)
    return variables


@pytest.mark.parametrize("max_bytes", [1, 4000, 5000, 10**9])
def test_files_are_described_as_they_are(tmp_path: Path, max_bytes: int) -> None:
    variables = write(tmp_path / "ckpt-7", max_bytes=max_bytes)
    described = describe(str(tmp_path / "ckpt-7"))
    assert sorted(os.listdir(tmp_path)) == [record.name for _, record in described]
    assert (len(described) > 2) == (max_bytes < 10**9)
    for path, record in described:
        assert (record.size, record.crc32c) == (os.path.getsize(path), crc32c_of(path))
    for variable in variables:
        if variable.dtype != tf.bool and variable.dtype != tf.string:
            variable.assign(tf.zeros_like(variable))
    expected = write(tmp_path / "other", max_bytes=10**9)
    again = tf.train.Checkpoint(values=variables)
    again.read(str(tmp_path / "ckpt-7")).assert_consumed()
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value.numpy())


def test_only_strings_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "ckpt-7", max_bytes=10**9)
    spans = read_spans(str(tmp_path / "ckpt-7.index"))
    unknown = sum(span.size for span in spans if span.crc32c is None)
    assert 0 < unknown < 2000 < sum(span.size for span in spans)
    lengths = []
    extend = data_files._extend

    def counted(checksum: int, file: object, begin: int, end: int) -> int:
        lengths.append(end - begin)
        return extend(checksum, file, begin, end)

    monkeypatch.setattr(data_files, "_extend", counted)
    describe(str(tmp_path / "ckpt-7"))
    index_size = os.path.getsize(tmp_path / "ckpt-7.index")
    assert sum(lengths) == unknown + index_size


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ckpt-7.index").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="no index of a TensorFlow checkpoint"):
        describe(str(tmp_path / "ckpt-7"))


def test_a_state_in_several_files_is_saved_and_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resumable_tf.checkpoint.bundle.SHARD_BYTES", 20)
    state = small_state()
    with rtf.Checkpointer(str(tmp_path), keep_last=1) as checkpointer:
        for _ in range(2):
            advance(state)
            info = checkpointer.save(state).result()
    names = [record.name for record in info.manifest.files]
    assert len(names) > 3
    assert sorted(os.listdir(tmp_path / "checkpoints")) == sorted(
        [*names, "checkpoint", "ckpt-2.manifest.json"]
    )
    again = small_state()
    rtf.Checkpointer(str(tmp_path)).restore(again)
    assert_at_step(again, 2)
