"""Output projection and label-smoothed cross-entropy, with their joint gradient.

    smoothed, plain = projected_cross_entropy(
        outputs_ND, embedding_VD, labels_N, weights_N, smoothing=0.1
    )

The logits are the largest tensor of a step (8,000 values a token), so every pass over
them counts. Here one kernel reads them, for the value and for the slope; weights,
smoothing and the label's share enter the gradient through the two matrix products'
small sides, as they are linear.

Shapes: N tokens, V vocabulary, D model dim.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def projected_cross_entropy(
    outputs: tf.Tensor,
    embedding: tf.Tensor,
    labels: tf.Tensor,
    weights: tf.Tensor,
    *,
    smoothing: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the weighted sums of the smoothed and the plain cross-entropy.

    The logits are `outputs` times `embedding` transposed. The target distribution
    gives `1 - smoothing` to the label and `smoothing / V` to every piece (Szegedy et
    al. 2015, section 7). Only the first result has a gradient.

    Args:
        outputs: [N, D], of any float dtype.
        embedding: [V, D], of the same dtype.
        labels: int32 [N].
        weights: float32 [N]; 0 for padding.
        smoothing: Mass spread over all pieces.

    Returns:
        Two float32 scalars, in nats.
    """

    @tf.custom_gradient
    def summed(outputs: tf.Tensor, embedding: tf.Tensor) -> Any:
        logits = tf.cast(tf.matmul(outputs, embedding, transpose_b=True), tf.float32)
        # The raw operation gives value and gradient from one kernel; the public one
        # falls apart into many when deterministic ones are asked for.
        plain, slope = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
            features=logits, labels=labels
        )
        mean_embedding = tf.reduce_mean(embedding, axis=0)
        label_embedding = tf.gather(embedding, labels)
        # The label's logit less the mean logit, without another pass over them all.
        gap = tf.reduce_sum(outputs * (label_embedding - mean_embedding), axis=-1)
        smoothed = plain + smoothing * tf.cast(gap, tf.float32)

        def gradient(upstream: tf.Tensor, _: tf.Tensor) -> Any:
            # By a logit: scale * (slope + smoothing * (is_label - 1 / V)).
            scale = tf.cast(weights * upstream, outputs.dtype)[:, None]
            slopes = tf.cast(slope, outputs.dtype)
            shift = smoothing * (label_embedding - mean_embedding)
            of_outputs = scale * (tf.matmul(slopes, embedding) + shift)
            scaled = scale * outputs
            of_embedding = tf.matmul(slopes, scaled, transpose_a=True)
            of_embedding -= smoothing / embedding.shape[0] * tf.reduce_sum(scaled, 0)
            index, share = labels[:, None], smoothing * scaled
            return of_outputs, tf.tensor_scatter_nd_add(of_embedding, index, share)

        sums = tf.reduce_sum(smoothed * weights), tf.reduce_sum(plain * weights)
        return sums, gradient

    sums: tuple[tf.Tensor, tf.Tensor] = summed(outputs, embedding)
    return sums
