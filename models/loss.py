"""Label-smoothed cross-entropy with its gradient in one pass.

    smoothed, plain = smoothed_cross_entropy(
        logits_NV, labels_N, weights_N, smoothing=0.1
    )

The logits are the largest tensor of a step (8,000 values a token), so every pass
over them counts. TensorFlow's softmax_cross_entropy_with_logits would read a dense
[N, V] target as well; here the target is implied by the label.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def smoothed_cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, *, smoothing: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the weighted sums of the smoothed and the plain cross-entropy.

    The target distribution gives `1 - smoothing` to the label and `smoothing / V`
    to every piece (Szegedy et al. 2015, section 7). Only the first result has a
    gradient.

    Args:
        logits: float32 [N, V].
        labels: int32 [N].
        weights: float32 [N]; 0 for padding.
        smoothing: Mass spread over all pieces.

    Returns:
        Two float32 scalars, in nats.
    """
    vocab_size = logits.shape[-1]
    flat = smoothing / vocab_size

    @tf.custom_gradient
    def summed(logits: tf.Tensor) -> Any:
        # The raw operation: its value and its gradient come from one kernel. The
        # public function falls apart into many when deterministic ones are asked for.
        plain, slope = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
            features=logits, labels=labels
        )
        label_logits = tf.gather(logits, labels, batch_dims=1)
        smoothed = plain + smoothing * (label_logits - tf.reduce_mean(logits, axis=-1))

        def gradient(upstream: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
            scale = weights * upstream
            dense = (slope - flat) * scale[:, None]
            index = tf.stack([tf.range(tf.shape(labels)[0]), labels], axis=1)
            return tf.tensor_scatter_nd_add(dense, index, smoothing * scale)

        sums = tf.reduce_sum(smoothed * weights), tf.reduce_sum(plain * weights)
        return sums, gradient

    smoothed, plain = summed(logits)
    return smoothed, plain
