"""Bundles written without TensorFlow are those that TensorFlow would have written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.small_state import advance, assert_at_step, small_state
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import resumable_tf as rtf
from resumable_tf.checkpoint import bundle
from resumable_tf.checkpoint.crc32c import mask, unmask
from resumable_tf.checkpoint.direct_bundle import can_write, write_direct
from resumable_tf.checkpoint.sorted_table import build_table, read_table
from resumable_tf.state import TrainState
from resumable_tf.storage import direct_file
from resumable_tf.storage.direct_file import DirectFile
from resumable_tf.storage.protocol import CHUNK_BYTES

NUMBERS = sorted(
    {*("float16", "bfloat16", "float32", "float64", "complex64", "complex128")}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    | {"bool"}
)
WRITERS = ("ours", "theirs")
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)


def tensor_of(dtype: str, shape: tuple[int, ...], seed: int) -> Any:
    count = int(np.prod(shape, dtype=np.int64))
    values = np.random.default_rng(seed).integers(0, 2**7, count).reshape(shape)
    return tf.cast(tf.constant(values), dtype)


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    shape = draw(SHAPES)
    if draw(st.booleans()):
        return tensor_of(draw(st.sampled_from(NUMBERS)), shape, draw(st.integers(0, 9)))
    count = int(np.prod(shape, dtype=np.int64))
    strings = draw(
        st.lists(st.binary(max_size=300), min_size=count, max_size=count)
    )  # Longer than 127 bytes take two for their length.
    return tf.reshape(tf.constant(strings, tf.string), shape)


def files(prefix: str) -> dict[str, bytes]:
    """Returns all files of a bundle, by what their names end with."""
    directory, name = os.path.split(prefix)
    return {
        found.name.removeprefix(name): found.read_bytes()
        for found in Path(directory).glob(f"{name}.*")
        if not found.name.endswith(".manifest.json")
    }


def write_by_tensorflow(prefix: str, values: dict[str, Any]) -> None:
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )


def save_by_tensorflow(run_dir: Path, state: TrainState) -> None:
    with (
        pytest.MonkeyPatch.context() as patch,
        rtf.Checkpointer(str(run_dir)) as checkpointer,
    ):
        patch.setattr(bundle, "can_write", lambda _: False)
        checkpointer.save(state).result()


@settings(max_examples=60, deadline=None)
@given(values=st.lists(tensors(), min_size=1, max_size=40))
def test_a_bundle_is_byte_for_byte_tensorflows(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any]
) -> None:
    directory = tmp_path_factory.mktemp("bundle")
    named = {f"a/{number}": value for number, value in enumerate(values)}
    ours, theirs = str(directory / "ours"), str(directory / "theirs")
    write_by_tensorflow(theirs, named)
    write_direct(ours, dict(named), max_bytes=10**9, bypasses_cache=True)
    assert files(ours) == files(theirs)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(tensors(), min_size=1, max_size=20),
    max_bytes=st.sampled_from([1, 60]),
)
def test_tensorflow_reads_several_data_files(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], max_bytes: int
) -> None:
    prefix = str(tmp_path_factory.mktemp("bundle") / "ckpt-1")
    named = {f"a/{number}": value for number, value in enumerate(values)}
    write_direct(prefix, dict(named), max_bytes=max_bytes, bypasses_cache=True)
    reader = tf.train.load_checkpoint(prefix)
    for key, value in named.items():
        found = reader.get_tensor(key)
        np.testing.assert_array_equal(np.asarray(found), value.numpy())
        assert np.shape(found) == tuple(value.shape)


def test_an_index_of_many_blocks_is_byte_for_byte_tensorflows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    keys = [
        f"{random.bytes(random.integers(1, 4)).hex()}/{'layer' * random.integers(9)}{n}"
        for n in range(16_000)
    ]
    named = {key: tf.constant(0.5) for key in sorted(keys)}
    write_by_tensorflow(str(tmp_path / "theirs"), named)
    write_direct(str(tmp_path / "ours"), named, max_bytes=10**9, bypasses_cache=True)
    ours = files(str(tmp_path / "ours"))
    assert ours == files(str(tmp_path / "theirs"))
    assert len(ours[".index"]) > 2 * 2**18  # Three blocks.


@given(st.dictionaries(st.binary(max_size=40), st.binary(max_size=300), min_size=1))
def test_a_table_is_read_as_it_was_built(contents: dict[bytes, bytes]) -> None:
    entries = sorted(contents.items())
    assert list(read_table(build_table(entries))) == entries


def test_a_table_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="in order"):
        build_table([(b"b", b""), (b"a", b"")])


@given(st.integers(0, 2**32 - 1))
def test_masking_is_undone(checksum: int) -> None:
    assert unmask(mask(checksum)) == checksum


@pytest.mark.parametrize("max_bytes", [10**9, 20])
def test_each_bundle_equals_the_one_that_tensorflow_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_bytes: int
) -> None:
    written: list[str] = []
    described: list[Any] = []
    direct, describe = bundle.write_direct, bundle._describe

    def noted(prefix: str, values: dict[str, Any], **options: Any) -> None:
        written.append(os.path.basename(prefix))
        assert options["bypasses_cache"]
        direct(prefix, values, **options)

    def noted_description(snapshot: Any) -> Any:
        described.append(snapshot)
        return describe(snapshot)

    monkeypatch.setattr(bundle, "write_direct", noted)
    monkeypatch.setattr(bundle, "_describe", noted_description)
    monkeypatch.setattr(bundle, "SHARD_BYTES", max_bytes)
    state = small_state()
    other = tmp_path / "other"
    with rtf.Checkpointer(str(tmp_path), keep_last=None) as checkpointer:
        for step in range(1, 4):
            advance(state)
            checkpointer.save(state).result()
            save_by_tensorflow(other / str(step), state)
            theirs = files(str(other / f"{step}/checkpoints/ckpt-{step}"))
            assert files(str(tmp_path / f"checkpoints/ckpt-{step}")) == theirs
            assert len(theirs) == (2 if max_bytes == 10**9 else 6)
    assert written == ["ckpt-1", "ckpt-2", "ckpt-3"]
    assert len(described) == 1
    assert tf.train.latest_checkpoint(str(tmp_path / "checkpoints")).endswith("ckpt-3")
    plain = small_state()
    tf.train.Checkpoint(**plain.trackables).restore(
        str(tmp_path / "checkpoints/ckpt-3")
    ).assert_existing_objects_matched()
    plain.step, plain.extra = state.step, state.extra
    assert_at_step(plain, 3)


def test_a_new_structure_is_described_by_tensorflow_again(tmp_path: Path) -> None:
    module = tf.Module()
    module.first = tf.Variable(1.0)
    state = TrainState(module=module)
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        for step in (1, 2):
            state.step = step
            checkpointer.save(state).result()
        module.second = tf.Variable(5.0)
        for step in (3, 4):
            state.step = step
            checkpointer.save(state).result()
    fresh = tf.Module()
    fresh.first, fresh.second = tf.Variable(0.0), tf.Variable(0.0)
    for step in (3, 4):
        fresh.second.assign(0.0)
        status = tf.train.Checkpoint(module=fresh).read(
            str(tmp_path / f"checkpoints/ckpt-{step}")
        )
        status.assert_existing_objects_matched()
        assert fresh.second.numpy() == 5.0


def save_twice(directory: Path, first: Any, change: Callable[[], Any]) -> None:
    """Saves a module as step 1, and as step 2 after a change; then step 2 afresh."""
    state = TrainState(module=first)
    with rtf.Checkpointer(str(directory / "ours")) as checkpointer:
        state.step = 1
        checkpointer.save(state).result()
        change()
        state.step = 2
        checkpointer.save(state).result()
    save_by_tensorflow(directory / "theirs", state)


def assert_equal_files(directory: Path) -> None:
    ours, theirs = (directory / name / "checkpoints/ckpt-2" for name in WRITERS)
    assert files(str(ours)) == files(str(theirs))


def test_values_that_were_empty_keep_their_place(tmp_path: Path) -> None:
    module = tf.Module()
    tables = [
        tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, 0) for _ in "za"
    ]
    module.z, module.a = tables

    def fill() -> None:
        for table in tables:
            table.insert(tf.constant([1, 2], tf.int64), tf.constant([3, 4], tf.int64))

    save_twice(tmp_path, module, fill)
    assert_equal_files(tmp_path)


def test_another_object_of_the_same_keys_is_described_anew(tmp_path: Path) -> None:
    """One edge more in the graph, and no other key."""
    module = tf.Module()
    module.first = tf.Variable(1.0)

    def add_edge() -> None:
        module.second = module.first

    save_twice(tmp_path, module, add_edge)
    assert_equal_files(tmp_path)


def test_an_object_of_another_dtype_is_left_to_tensorflow(tmp_path: Path) -> None:
    module = tf.Module()
    module._inner = tf.Module()
    module._inner._weight = tf.Variable(1.0)

    def replace() -> None:
        module._inner = tf.Module()
        quarter = tf.dtypes.experimental.float8_e4m3fn
        module._inner._weight = tf.Variable(tf.cast(0.5, quarter))

    save_twice(tmp_path, module, replace)
    assert_equal_files(tmp_path)


def test_what_is_uploaded_next_stays_in_the_page_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: list[dict[str, Any]] = []
    direct = bundle.write_direct

    def noted(prefix: str, values: dict[str, Any], **given: Any) -> None:
        options.append(given)
        direct(prefix, values, **given)

    monkeypatch.setattr(bundle, "write_direct", noted)
    state = small_state()
    with rtf.Checkpointer("memory://stays-in-the-page-cache") as checkpointer:
        advance(state)
        checkpointer.save(state).result()
    assert [given["bypasses_cache"] for given in options] == [False]


def test_a_snapshot_holds_no_values_that_were_taken_from_it() -> None:
    snapshot = small_state().capture()
    assert len(snapshot.take_values()) == len(snapshot.leaves())
    assert not any(snapshot._captured)


def test_each_value_is_let_go_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    append = DirectFile.append

    def noted(self: DirectFile, data: Any) -> int:
        held.append(len(named))
        return append(self, data)

    monkeypatch.setattr(DirectFile, "append", noted)
    named = {f"a/{number}": tf.zeros(10) for number in range(4)}
    write_direct(str(tmp_path / "ckpt-1"), named, max_bytes=10**9, bypasses_cache=True)
    assert held == [3, 2, 1, 0]


def test_what_python_has_no_numbers_for_is_left_to_tensorflow(tmp_path: Path) -> None:
    assert can_write(["float32", "string", "bfloat16"])
    assert not can_write(["float32", "float8_e4m3fn"])
    module = tf.Module()
    quarter = tf.dtypes.experimental.float8_e4m3fn
    module.weights = tf.Variable(tf.cast([0.5, 2.0], quarter))
    state = TrainState(module=module)
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        for step in (1, 2):
            state.step = step
            checkpointer.save(state).result()
        module.weights.assign(tf.cast([0.0, 0.0], quarter))
        checkpointer.restore(state)
    assert tf.cast(module.weights, tf.float32).numpy().tolist() == [0.5, 2.0]


def test_a_failed_save_keeps_no_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    named = {f"a/{number}": tf.zeros(CHUNK_BYTES) for number in range(3)}
    monkeypatch.setattr(direct_file.os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        write_direct(
            str(tmp_path / "ckpt-1"), named, max_bytes=10**9, bypasses_cache=True
        )
    assert not named
