"""Dropout is a pure function of (seed, step, stream, global row), and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dropout import DropoutKey, dropout, seed_key

SHAPE = (64, 10, 64)
NUM_VALUES = int(np.prod(SHAPE))


def key(seed: int = 1, step: int = 0, first_row: int = 0) -> DropoutKey:
    return DropoutKey(seed_key("dropout", seed), tf.constant(step, tf.int64), first_row)


def mask(
    of: DropoutKey, *, stream: int = 0, rate: float = 0.1, shape: Any = SHAPE
) -> np.ndarray:
    kept = dropout(tf.ones(shape), rate=rate, key=of, stream=stream)
    return kept.numpy() > 0


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.5, 0.999])
def test_share_and_scale_are_those_of_the_rate_rounded_to_a_256th(rate: float) -> None:
    exact = min(round(rate * 256), 255) / 256
    values = dropout(tf.ones(SHAPE), rate=rate, key=key(), stream=0).numpy()
    deviation = (exact * (1 - exact) / NUM_VALUES) ** 0.5
    assert abs((values == 0).mean() - exact) < max(5 * deviation, 1e-9)
    if (values > 0).any():
        np.testing.assert_array_equal(
            np.unique(values[values > 0]), np.float32(1 / (1 - exact))
        )


def test_each_row_column_and_place_drops_its_share() -> None:
    dropped = ~mask(key(), rate=0.25)
    for axes in ((1, 2), (0, 2), (0, 1)):
        shares = dropped.mean(axis=axes)
        deviation = (0.25 * 0.75 * shares.size / NUM_VALUES) ** 0.5
        assert np.abs(shares - 0.25).max() < 5 * deviation


def test_seed_step_and_stream_each_give_an_unrelated_mask() -> None:
    masks = [
        mask(key(), rate=0.5),
        mask(key(seed=2), rate=0.5),
        mask(key(step=1), rate=0.5),
        mask(key(step=2**40), rate=0.5),
        mask(key(), rate=0.5, stream=1),
        mask(key(), rate=0.5, stream=65_535),
        mask(key(first_row=64), rate=0.5),
    ]
    signs = np.stack([2.0 * m.ravel() - 1 for m in masks])
    correlation = signs @ signs.T / NUM_VALUES
    # Independent signs correlate by 1/sqrt(40960) = 0.005; 5 deviations.
    assert np.abs(correlation - np.eye(len(masks))).max() < 0.025
    np.testing.assert_array_equal(mask(key(), rate=0.5), masks[0])


@settings(max_examples=25)
@given(
    st.integers(0, 2**20),
    st.integers(0, 2**31),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([(16,), (3, 16), (5, 2, 8), (7, 48)]),
)
def test_rows_of_a_replica_are_a_slice_of_the_global_mask(
    start: int, step: int, before: int, rows: int, row_shape: tuple[int, ...]
) -> None:
    whole = mask(key(step=step, first_row=start), shape=(before + rows, *row_shape))
    part = mask(key(step=step, first_row=start + before), shape=(rows, *row_shape))
    np.testing.assert_array_equal(part, whole[before:])


def test_mask_is_the_same_in_a_graph_with_unknown_rows_and_in_bfloat16() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, *SHAPE[1:]], tf.float32)])
    def graph(x: tf.Tensor) -> Any:
        return dropout(x, rate=0.1, key=key(step=5), stream=3)

    expected = mask(key(step=5), stream=3)
    np.testing.assert_array_equal(graph(tf.ones(SHAPE)).numpy() > 0, expected)
    narrow = dropout(tf.ones(SHAPE, tf.bfloat16), rate=0.1, key=key(step=5), stream=3)
    assert narrow.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(narrow, tf.float32).numpy() > 0, expected)


def test_gradient_passes_where_values_are_kept() -> None:
    x = tf.random.stateless_normal(SHAPE, seed=[1, 2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = dropout(x, rate=0.5, key=key(), stream=0)
    gradient = tape.gradient(y, x).numpy()
    np.testing.assert_array_equal(gradient, 2.0 * mask(key(), rate=0.5))


@pytest.mark.parametrize("of", [None, key()])
def test_without_a_key_or_a_rate_values_pass_unchanged(of: DropoutKey | None) -> None:
    x = tf.random.stateless_normal([2, 16], seed=[1, 2])
    assert dropout(x, rate=0.1 if of is None else 0.0, key=of, stream=0) is x


@pytest.mark.parametrize(
    ("shape", "stream", "message"),
    [
        ((2, 8), 0, "8 values, not a multiple of 16"),
        ((2, 16), -1, "stream"),
        ((2, 16), 65_536, "stream"),
    ],
)
def test_shapes_and_streams_that_would_share_bits_are_refused(
    shape: tuple[int, ...], stream: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dropout(tf.ones(shape), rate=0.1, key=key(), stream=stream)


def test_seed_keys_of_purposes_and_seeds_differ_and_fit_into_63_bits() -> None:
    keys = {seed_key(p, s) for p in ("dropout", "other") for s in range(100)}
    assert len(keys) == 200 and all(0 <= k < 2**63 for k in keys)
