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

NUM_QUICK, NUM_LONG = 12, 600


@pytest.mark.parametrize("name", STEPS)
def test_each_operation_before_a_shuffle(name: str) -> None:
    assert wrong_positions(lambda: composed((name, "shuffle"))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STEPS.keys() - {"cache"}))
def test_each_operation_alone_and_behind_a_shuffle(name: str) -> None:
    assert wrong_positions(lambda: composed((name,))) == []
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


COUNT = tf.data.Dataset.range(8)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "python": (
        lambda: COUNT.map(
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
        lambda: COUNT.map(
            lambda i: tf.random.uniform([], seed=1), num_parallel_calls=2
        ),
        r"test_pipelines_exact\.py:.*enable_op_determinism",
    ),
    "in any order": (
        lambda: COUNT.map(lambda i: i, num_parallel_calls=2, deterministic=False),
        "deterministic=False",
    ),
    "a cache of what is shuffled": (
        lambda: COUNT.shuffle(8, seed=1).cache(),
        "reshuffle_each_iteration=False",
    ),
    "a cache of random numbers": (
        lambda: COUNT.map(lambda i: tf.random.uniform([], seed=1)).cache(),
        "cache",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_before_the_first_batch(name: str) -> None:
    make, match = REFUSED[name]
    with pytest.raises(rtf.ResumableError, match=match):
        rtf.ResumableIterator(make())
