"""Stateless permutations: correct, equal in NumPy and TensorFlow, and frozen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.data.order import (
    base_key,
    fold_in,
    fold_in_tf,
    order_key,
    permutation,
    permutation_tf,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "data_order.json"
keys = st.integers(0, 2**32 - 1)
# Beyond 2**48 counters repeat: 65,536 times 4 billion shard visits.
counters = st.integers(0, 2**48 - 1)


@given(st.integers(0, 300), keys)
def test_permutation_holds_each_number_once(size: int, key: int) -> None:
    np.testing.assert_array_equal(
        np.sort(permutation(size, key=key)), np.arange(size, dtype=np.int64)
    )


@given(st.integers(0, 300), keys)
def test_permutation_is_the_same_in_numpy_and_tensorflow(size: int, key: int) -> None:
    in_graph = permutation_tf(tf.constant(size), key=tf.constant(key, tf.int64))
    np.testing.assert_array_equal(in_graph.numpy(), permutation(size, key=key))


@given(keys, st.lists(counters, min_size=1, max_size=20))
def test_fold_in_is_the_same_in_numpy_and_tensorflow_for_large_counters(
    key: int, counts: list[int]
) -> None:
    array = np.array(counts, np.int64)
    expected = fold_in(np.int64(key), array)
    assert ((expected >= 0) & (expected < 2**32)).all()
    actual = fold_in_tf(tf.constant(key, tf.int64), tf.constant(array))
    np.testing.assert_array_equal(actual.numpy(), expected)


def test_large_permutation_is_the_same_inside_a_graph() -> None:
    graph = tf.function(permutation_tf, autograph=False)
    key = order_key(seed=7, purpose="rows", counter=123_456_789_012)
    size, key_tensor = tf.constant(100_000), tf.constant(key, tf.int64)
    expected = permutation(100_000, key=key)
    np.testing.assert_array_equal(graph(size, key=key_tensor).numpy(), expected)
    np.testing.assert_array_equal(np.sort(expected), np.arange(100_000))


@given(st.integers(0, 10**12), st.integers(0, 10**9))
def test_orders_of_other_seeds_purposes_and_counters_differ(
    seed: int, counter: int
) -> None:
    orders = [
        order_key(seed=seed, purpose="rows", counter=counter),
        order_key(seed=seed + 1, purpose="rows", counter=counter),
        order_key(seed=seed, purpose="shards", counter=counter),
        order_key(seed=seed, purpose="rows", counter=counter + 1),
    ]
    assert len({permutation(50, key=key).tobytes() for key in orders}) == 4


def test_each_number_comes_to_each_place_about_equally_often() -> None:
    size, num_orders = 6, 6000
    counts = np.zeros((size, size))
    for counter in range(num_orders):
        key = order_key(seed=3, purpose="rows", counter=counter)
        counts[np.arange(size), permutation(size, key=key)] += 1
    # Binomial(6000, 1/6): mean 1000, deviation 29; 36 cells, so 5 deviations.
    assert np.abs(counts - num_orders / size).max() < 5 * 29


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()), ids=str)
def test_orders_are_those_of_the_first_release(case: dict[str, object]) -> None:
    arguments = {name: case[name] for name in ("seed", "purpose", "counter")}
    key = order_key(**arguments)  # type: ignore[arg-type]
    order = permutation(int(str(case["size"])), key=key)
    assert base_key(arguments["seed"], arguments["purpose"]) == case["base_key"]  # type: ignore[arg-type]
    assert order[:8].tolist() == case["first_8"]
    digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
    assert digest == case["sha256"]
