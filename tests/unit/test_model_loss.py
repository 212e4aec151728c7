"""The one-pass label-smoothed loss equals the plain formula, and so its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.loss import smoothed_cross_entropy


def case(seed: int, *, num_tokens: int = 40, vocab_size: int = 30) -> Any:
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=3, size=(num_tokens, vocab_size))
    labels = generator.integers(0, vocab_size, size=num_tokens)
    weights = generator.integers(0, 2, size=num_tokens)
    return (
        tf.constant(logits, tf.float32),
        tf.constant(labels, tf.int32),
        tf.constant(weights, tf.float32),
    )


def naive(logits: Any, labels: Any, weights: Any, smoothing: float) -> tuple[Any, Any]:
    """The formula as it is written, over a dense target distribution."""
    vocab_size = logits.shape[-1]
    hot = tf.one_hot(labels, vocab_size, dtype=logits.dtype)
    target = (1 - smoothing) * hot + smoothing / vocab_size
    log_probs = tf.nn.log_softmax(logits)
    losses = [-tf.reduce_sum(t * log_probs, axis=-1) for t in (target, hot)]
    smoothed, plain = (tf.reduce_sum(loss * weights) for loss in losses)
    return smoothed, plain


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.5]))
def test_loss_and_gradient_equal_the_formula_in_float64(
    seed: int, smoothing: float
) -> None:
    logits, labels, weights = case(seed)
    exact = [tf.cast(value, tf.float64) for value in (logits, weights)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([logits, exact[0]])
        smoothed, plain = smoothed_cross_entropy(
            logits, labels, weights, smoothing=smoothing
        )
        expected = naive(exact[0], labels, exact[1], smoothing)
        scaled, expected_scaled = smoothed * 0.25, expected[0] * 0.25
    # float32 against float64.
    np.testing.assert_allclose((smoothed, plain), expected, rtol=1e-5)
    np.testing.assert_allclose(
        tape.gradient(scaled, logits),
        tape.gradient(expected_scaled, exact[0]),
        rtol=1e-4,
        atol=1e-6,
    )


def test_loss_equals_that_of_keras() -> None:
    logits, labels, _ = case(1)
    keras = tf.keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.1
    )
    mean = keras(tf.one_hot(labels, 30), logits)
    smoothed, _ = smoothed_cross_entropy(logits, labels, tf.ones([40]), smoothing=0.1)
    np.testing.assert_allclose(smoothed / 40, mean, rtol=1e-5)  # float32 rounding


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_large_logits_neither_overflow_nor_lose_the_gradient(offset: float) -> None:
    logits = tf.constant([[0.0, 1.0, 2.0], [80.0, -80.0, 0.0]]) + offset
    with tf.GradientTape() as tape:
        tape.watch(logits)
        sums = smoothed_cross_entropy(
            logits, tf.constant([1, 1]), tf.ones([2]), smoothing=0.1
        )
    gradient = tape.gradient(sums[0], logits)
    assert np.isfinite(gradient).all() and np.isfinite(sums).all()
    np.testing.assert_allclose(tf.reduce_sum(gradient, -1), [0, 0], atol=1e-6)


def test_tokens_of_weight_zero_count_for_nothing_at_all() -> None:
    logits, labels, weights = case(3)
    noise = tf.where(weights[:, None] > 0, logits, 7 * logits + 3)
    results = []
    for values in (logits, noise):
        with tf.GradientTape() as tape:
            tape.watch(values)
            sums = smoothed_cross_entropy(values, labels, weights, smoothing=0.1)
        results.append((sums, tape.gradient(sums[0], values)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert not results[0][1].numpy()[weights.numpy() == 0].any()
