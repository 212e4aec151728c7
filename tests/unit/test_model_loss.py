"""Projection and label-smoothed loss equal the plain formula, and so do gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.loss import projected_cross_entropy


def case(seed: int, *, num_tokens: int = 40, vocab_size: int = 30) -> Any:
    generator = np.random.default_rng(seed)
    outputs = generator.normal(size=(num_tokens, 8))
    embedding = generator.normal(size=(vocab_size, 8))
    labels = generator.integers(0, vocab_size, size=num_tokens)
    weights = generator.integers(0, 2, size=num_tokens)
    floats = (tf.constant(value, tf.float32) for value in (outputs, embedding))
    return *floats, tf.constant(labels, tf.int32), tf.constant(weights, tf.float32)


def naive(
    outputs: Any, embedding: Any, labels: Any, weights: Any, smoothing: float
) -> list[Any]:
    """The formula as it is written, over dense logits and targets."""
    vocab_size = embedding.shape[0]
    hot = tf.one_hot(labels, vocab_size, dtype=outputs.dtype)
    target = (1 - smoothing) * hot + smoothing / vocab_size
    log_probs = tf.nn.log_softmax(tf.matmul(outputs, embedding, transpose_b=True))
    losses = [-tf.reduce_sum(t * log_probs, axis=-1) for t in (target, hot)]
    return [tf.reduce_sum(loss * weights) for loss in losses]


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.5]))
def test_loss_and_gradients_equal_the_formula_in_float64(
    seed: int, smoothing: float
) -> None:
    outputs, embedding, labels, weights = case(seed)
    exact = [tf.cast(value, tf.float64) for value in (outputs, embedding, weights)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([outputs, embedding, *exact])
        sums = projected_cross_entropy(
            outputs, embedding, labels, weights, smoothing=smoothing
        )
        expected = naive(*exact[:2], labels, exact[2], smoothing)
        scaled, expected_scaled = sums[0] * 0.25, expected[0] * 0.25
    # float32 against float64.
    np.testing.assert_allclose(sums, expected, rtol=1e-5)
    gradients = tape.gradient(scaled, [outputs, embedding])
    expected_gradients = tape.gradient(expected_scaled, exact[:2])
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-5)


def test_loss_equals_that_of_keras() -> None:
    outputs, embedding, labels, _ = case(1)
    keras = tf.keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.1
    )
    logits = tf.matmul(outputs, embedding, transpose_b=True)
    mean = keras(tf.one_hot(labels, 30), logits)
    smoothed, _ = projected_cross_entropy(
        outputs, embedding, labels, tf.ones([40]), smoothing=0.1
    )
    np.testing.assert_allclose(smoothed / 40, mean, rtol=1e-5)  # float32 rounding


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_large_logits_neither_overflow_nor_lose_the_gradient(offset: float) -> None:
    logits = tf.constant([[0.0, 1.0, 2.0], [80.0, -80.0, 0.0]]) + offset
    with tf.GradientTape() as tape:
        tape.watch(logits)
        # Times the identity, so that the outputs are the logits.
        sums = projected_cross_entropy(
            logits, tf.eye(3), tf.constant([1, 1]), tf.ones([2]), smoothing=0.1
        )
    gradient = tape.gradient(sums[0], logits)
    assert np.isfinite(gradient).all() and np.isfinite(sums).all()
    np.testing.assert_allclose(tf.reduce_sum(gradient, -1), [0, 0], atol=1e-6)


def test_tokens_of_weight_zero_count_for_nothing_at_all() -> None:
    outputs, embedding, labels, weights = case(3)
    noise = tf.where(weights[:, None] > 0, outputs, 7 * outputs + 3)
    results = []
    for values in (outputs, noise):
        with tf.GradientTape() as tape:
            tape.watch([values, embedding])
            sums = projected_cross_entropy(
                values, embedding, labels, weights, smoothing=0.1
            )
        results.append((*sums, *tape.gradient(sums[0], [values, embedding])))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not results[0][2].numpy()[weights.numpy() == 0].any()


def test_bfloat16_outputs_give_gradients_of_their_own_dtype() -> None:
    outputs, embedding, labels, weights = case(4)
    halves = [tf.cast(value, tf.bfloat16) for value in (outputs, embedding)]
    with tf.GradientTape() as tape:
        tape.watch(halves)
        sums = projected_cross_entropy(*halves, labels, weights, smoothing=0.1)
    gradients = tape.gradient(sums[0], halves)
    assert [g.dtype for g in gradients] == [tf.bfloat16] * 2
    expected = naive(outputs, embedding, labels, weights, 0.1)
    # bfloat16 has 8 bits of mantissa.
    np.testing.assert_allclose(sums, expected, rtol=2e-2)
