"""Pipelines of many operations continue exactly from every position, or are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.pipelines import STEPS, composed, drawn, wrong_positions

import resumable_tf as rtf

NUM_QUICK, NUM_LONG = 3, 600


@pytest.mark.parametrize(
    "name", sorted(STEPS.keys() - {"bucketed", "ragged", "interleave in parallel"})
)
def test_each_operation_before_a_shuffle(name: str) -> None:
    assert wrong_positions(lambda: composed((name, "shuffle")), num_epochs=2) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STEPS.keys() - {"cache"}))
def test_each_operation_alone_and_behind_a_shuffle(name: str) -> None:
    assert wrong_positions(lambda: composed((name,))) == []
    assert wrong_positions(lambda: composed((name, "shuffle"))) == []
    assert wrong_positions(lambda: composed(("shuffle", name, "prefetch all"))) == []


@pytest.mark.parametrize(
    ("seed", "count"),
    [(1, NUM_QUICK), pytest.param(2, NUM_LONG, marks=pytest.mark.proof)],
)
def test_compositions_of_operations(seed: int, count: int) -> None:
    wrong, num_refused = {}, 0
    for names in drawn(seed, count):
        with contextlib.suppress(rtf.ResumableError):
            found = wrong_positions(lambda names=names: composed(names))
            if found:
                wrong[names] = found
            continue
        num_refused += 1
    assert not wrong
    assert num_refused < count / 4


def test_csv_files_whose_restore_is_wrong_in_tensorflow(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(12)))

    def make() -> Any:
        tf.keras.utils.set_random_seed(3)
        rows = tf.data.experimental.CsvDataset(str(path), [0, 0], header=True)
        return rows.shuffle(5).batch(4)

    assert wrong_positions(make) == []


def write_files(directory: Path) -> list[str]:
    """Writes two small files of each kind; returns the names without their ends."""
    names = [str(directory / name) for name in ("a", "b")]
    for number, name in enumerate(names):
        rows = [f"{10 * number + i},{i}" for i in range(7)]
        Path(f"{name}.txt").write_text("\n".join(rows))
        Path(f"{name}.csv").write_text("\n".join(["x,y", *rows]))
        Path(f"{name}.bin").write_bytes(bytes(range(10 * number, 10 * number + 14)))
        with tf.io.TFRecordWriter(f"{name}.tfrecord") as writer:
            for row in rows:
                writer.write(row.encode())
    return names


READERS: dict[str, Callable[[Any], Any]] = {
    "tfrecord": lambda names: tf.data.TFRecordDataset(names(".tfrecord")),
    "tfrecord in parallel": lambda names: tf.data.TFRecordDataset(
        names(".tfrecord"), num_parallel_reads=2
    ),
    "text lines": lambda names: tf.data.TextLineDataset(names(".txt")),
    "records of one length": lambda names: tf.data.FixedLengthRecordDataset(
        names(".bin"), record_bytes=2
    ),
    "listed files": lambda names: tf.data.Dataset.list_files(
        names(".txt"), shuffle=True, seed=2
    ).interleave(tf.data.TextLineDataset, cycle_length=2),
    "csv of all columns": lambda names: tf.data.experimental.make_csv_dataset(
        names(".csv"), batch_size=2, num_epochs=1, shuffle_seed=4
    ).map(lambda row: row["x"] * 100 + row["y"]),
    "csv without an end": lambda names: (
        tf.data.experimental.make_csv_dataset(
            names(".csv"), batch_size=2, shuffle_seed=4
        )
        .map(lambda row: row["x"] * 100 + row["y"])
        .take(9)
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if "csv" in name else [])
        for name in READERS
    ],
)
def test_readers_of_files(name: str, tmp_path: Path) -> None:
    names = write_files(tmp_path)

    def make() -> Any:
        tf.keras.utils.set_random_seed(3)
        rows = READERS[name](lambda end: [f"{found}{end}" for found in names])
        return rows.shuffle(4, seed=1).batch(3).prefetch(1)

    # Where a prefetch runs ahead of an endless shuffle, chance decides how many seeds
    # the next epoch finds drawn, also in a plain program.
    num_epochs = 1 if "without an end" in name else 2
    assert wrong_positions(make, num_epochs=num_epochs) == []


def test_reading_an_endless_pipeline_again_says_what_it_costs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def make() -> Any:
        tf.keras.utils.set_random_seed(3)
        data = tf.data.Dataset.range(4).map(lambda i: i + drawn_number())
        return data.repeat().batch(2)

    def drawn_number() -> Any:
        return tf.random.uniform([], maxval=9, dtype=tf.int64)

    first = rtf.ResumableIterator(make())
    for _ in range(5):
        next(first)
    second = rtf.ResumableIterator(make())
    second.deserialize(first.serialize())
    assert "all 5 batches since the start of training" in caplog.text
    assert next(second).numpy().tolist() == next(first).numpy().tolist()


def test_a_generator_in_a_map_goes_on_through_the_epochs() -> None:
    def make() -> Any:
        generator = tf.random.Generator.from_seed(2)
        data = tf.data.Dataset.range(12).shuffle(12, seed=1)
        return data.map(lambda i: (i, generator.uniform([]))).batch(4).prefetch(2)

    assert wrong_positions(make) == []


def test_a_shuffle_that_a_function_uses_from_outside() -> None:
    def make() -> Any:
        inner = tf.data.Dataset.range(4).shuffle(4, seed=1)
        return tf.data.Dataset.range(3).flat_map(lambda i: inner).batch(4)

    assert wrong_positions(make) == []


def count() -> Any:
    return tf.data.Dataset.range(8)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "python": (
        lambda: count().map(
            lambda i: tf.numpy_function(lambda n: np.int64(n), [i], tf.int64)
        ),
        r"test_pipelines_exact\.py:.*PyDataset",
    ),
    "a generator of Python": (
        lambda: tf.data.Dataset.from_generator(
            lambda: iter(range(4)), output_signature=tf.TensorSpec([], tf.int64)
        ),
        "from_generator.*PyDataset",
    ),
    "drawn in parallel": (
        lambda: count().map(
            lambda i: tf.random.uniform([], seed=1), num_parallel_calls=2
        ),
        r"test_pipelines_exact\.py:.*set_random_seed.*enable_op_determinism",
    ),
    "drawn in parallel inside a function": (
        lambda: count().flat_map(
            lambda i: tf.data.Dataset.range(3).map(
                lambda j: tf.random.uniform([], seed=1), num_parallel_calls=2
            )
        ),
        r"test_pipelines_exact\.py:.*num_parallel_calls",
    ),
    "in any order": (
        lambda: count().map(lambda i: i, num_parallel_calls=2, deterministic=False),
        "deterministic=False",
    ),
    "hidden in a variant": (
        lambda: tf.data.experimental.from_variant(
            tf.data.experimental.to_variant(count().shuffle(8, seed=1)),
            tf.TensorSpec([], tf.int64),
        ),
        "from_variant.*Shuffle",
    ),
    "a cache of what is shuffled": (
        lambda: count().shuffle(8, seed=1).cache(),
        "reshuffle_each_iteration=False",
    ),
    "a cache of random numbers": (
        lambda: count().map(lambda i: tf.random.uniform([], seed=1)).cache(),
        "cache",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_before_the_first_batch(name: str) -> None:
    make, match = REFUSED[name]
    with pytest.raises(rtf.ResumableError, match=match):
        rtf.ResumableIterator(make())
