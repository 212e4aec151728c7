"""Layers of the Transformer: attention over packed rows, feed-forward, layer norm.

Works with Keras 3 and with tf_keras: a layer adds its weights in the constructor
and computes with plain TensorFlow operations.

Shapes: B rows, Q query length, S key length, D model dim, H heads, K head dim,
F feed-forward dim, N rows times length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from models.config import TransformerConfig

_NORM_EPSILON = 1e-6

Initializer = Callable[..., Any]


def uniform(limit: float, *, seed: int, name: str) -> Initializer:
    """Returns an initializer that draws from U(-limit, limit).

    The values depend on `seed` and `name` only: not on the Keras version, the
    number of devices or the order in which layers are made.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    key = int.from_bytes(digest[:16], "little")

    def initialize(shape: Sequence[int], dtype: Any = None, **_: Any) -> tf.Tensor:
        generator = np.random.Generator(np.random.Philox(key=key))
        values = generator.uniform(-limit, limit, size=tuple(shape))
        return tf.constant(values.astype(np.float32), dtype or tf.float32)

    return initialize


class TransformerLayer(tf.keras.layers.Layer):
    """A layer that knows the model's sizes and names its weights by its own name."""

    def __init__(self, config: TransformerConfig, *, seed: int, name: str) -> None:
        """Keeps the sizes; sub-classes add weights."""
        # Keras would cast activations back to the dtype of the variables.
        super().__init__(name=name, autocast=False)
        self.config = config
        self._seed = seed

    def build(self, *_: Any, **__: Any) -> None:
        """Does nothing: the weights were made by the constructor."""
        self.built = True

    def add_kernel(self, name: str, fan_in: int, fan_out: int, parts: int = 1) -> Any:
        """Adds a [fan_in, parts * fan_out] kernel, Glorot-uniform in each part."""
        limit = (6 / (fan_in + fan_out)) ** 0.5
        return self.add_weight(
            name=name,
            shape=(fan_in, parts * fan_out),
            initializer=uniform(limit, seed=self._seed, name=f"{self.name}/{name}"),
        )

    def project(self, x: tf.Tensor, kernel: Any) -> tf.Tensor:
        """Multiplies the last axis of `x` with a kernel in the compute dtype."""
        weight = tf.cast(tf.convert_to_tensor(kernel), x.dtype)
        flat = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), weight)
        shape = tf.concat([tf.shape(x)[:-1], [weight.shape[-1]]], axis=0)
        return tf.ensure_shape(
            tf.reshape(flat, shape), x.shape[:-1].concatenate(weight.shape[-1])
        )


class LayerNorm(TransformerLayer):
    """Layer normalisation (Ba et al. 2016), computed in float32."""

    def __init__(self, config: TransformerConfig, *, seed: int, name: str) -> None:
        """Adds scale and bias."""
        super().__init__(config, seed=seed, name=name)
        shape = (config.model_dim,)
        self.scale = self.add_weight(name="scale", shape=shape, initializer="ones")
        self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Normalises the last axis."""
        wide = tf.cast(x, tf.float32)
        mean = tf.reduce_mean(wide, axis=-1, keepdims=True)
        centred = wide - mean
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        normal = centred * tf.math.rsqrt(variance + _NORM_EPSILON)
        scale, bias = map(tf.convert_to_tensor, (self.scale, self.bias))
        return tf.cast(normal * scale + bias, x.dtype)


class FeedForward(TransformerLayer):
    """Two projections with a ReLU between them."""

    def __init__(self, config: TransformerConfig, *, seed: int, name: str) -> None:
        """Adds both kernels and biases."""
        super().__init__(config, seed=seed, name=name)
        dim, ffn = config.model_dim, config.ffn_dim
        self.inner = self.add_kernel("inner", dim, ffn)
        self.outer = self.add_kernel("outer", ffn, dim)
        self.inner_bias = self.add_weight(
            name="inner_bias", shape=(ffn,), initializer="zeros"
        )
        self.outer_bias = self.add_weight(
            name="outer_bias", shape=(dim,), initializer="zeros"
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the transformed [B, Q, D]."""
        inner = self.project(x, self.inner)
        inner = tf.nn.bias_add(inner, tf.cast(self.inner_bias, x.dtype))
        outer = self.project(tf.nn.relu(inner), self.outer)
        return tf.nn.bias_add(outer, tf.cast(self.outer_bias, x.dtype))


class Attention(TransformerLayer):
    """Multi-head attention; the kernels of query, key and value are joined."""

    def __init__(
        self, config: TransformerConfig, *, seed: int, name: str, is_cross: bool
    ) -> None:
        """Adds the kernels.

        Args:
            config: The model's sizes.
            seed: Seed of the initial values.
            name: The layer's name.
            is_cross: Whether keys and values come from another sequence.
        """
        super().__init__(config, seed=seed, name=name)
        dim = config.model_dim
        if is_cross:
            self.query = self.add_kernel("query", dim, dim)
            self.key_value = self.add_kernel("key_value", dim, dim, parts=2)
        else:
            self.query_key_value = self.add_kernel("query_key_value", dim, dim, parts=3)
        self.output_kernel = self.add_kernel("output", dim, dim)

    def split_heads(self, x: tf.Tensor, parts: int) -> list[tf.Tensor]:
        """Cuts [B, Q, parts * D] into `parts` tensors [B, H, Q, K]."""
        heads = self.config.num_heads
        length = x.shape[1] if x.shape[1] is not None else tf.shape(x)[1]
        shape = [-1, length, parts, heads, self.config.model_dim // heads]
        return tf.unstack(tf.transpose(tf.reshape(x, shape), [2, 0, 3, 1, 4]))

    def project_self(self, x: tf.Tensor) -> list[tf.Tensor]:
        """Returns query, key and value, each [B, H, Q, K]."""
        return self.split_heads(self.project(x, self.query_key_value), 3)

    def project_memory(self, memory: tf.Tensor) -> list[tf.Tensor]:
        """Returns key and value of the encoder's output, each [B, H, S, K]."""
        return self.split_heads(self.project(memory, self.key_value), 2)

    def project_query(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the query of a cross-attention, [B, H, Q, K]."""
        return self.split_heads(self.project(x, self.query), 1)[0]

    def attend(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, bias: tf.Tensor
    ) -> tf.Tensor:
        """Returns the attended [B, Q, D].

        Args:
            query: [B, H, Q, K].
            key: [B, H, S, K].
            value: [B, H, S, K].
            bias: Added to the scores, broadcast to [B, H, Q, S]: 0, or a large
                negative number where attention is forbidden.
        """
        dim = self.config.model_dim
        scale = tf.constant((dim // self.config.num_heads) ** -0.5, query.dtype)
        scores = tf.matmul(query * scale, key, transpose_b=True) + bias
        weights = tf.nn.softmax(scores)
        mixed = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        length = mixed.shape[1] if mixed.shape[1] is not None else tf.shape(mixed)[1]
        return self.project(tf.reshape(mixed, [-1, length, dim]), self.output_kernel)


def segment_bias(
    query_segments: tf.Tensor, key_segments: tf.Tensor, dtype: Any
) -> tf.Tensor:
    """Returns 0 within a segment and a large negative number across, [B, 1, Q, S].

    Padding (segment 0) forms a segment of its own, so that no row of scores is
    without any allowed key.
    """
    same = query_segments[:, None, :, None] == key_segments[:, None, None, :]
    return forbid(tf.logical_not(same), dtype)


def causal_bias(length: int, dtype: Any) -> tf.Tensor:
    """Returns 0 for keys up to the query and a large negative number after it."""
    index = tf.range(length)
    return forbid(index[None, None, :, None] < index[None, None, None, :], dtype)


def forbid(mask: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Returns 0 where `mask` is False and a large negative number where True."""
    return tf.cast(mask, dtype) * tf.constant(-1e9, dtype)
