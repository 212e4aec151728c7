"""An encoder-decoder Transformer over packed rows (Vaswani et al. 2017).

    model = build_transformer(config, seed=1)
    logits_BTV = model(batch)                       # teacher forcing, no dropout
    sums = model.loss(batch, key=dropout_key)       # loss and token count, summed

Shapes: B rows, S source length, T target length, D model dim, H heads, K head dim,
V vocabulary, W hypotheses of a row while decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models.cache import Cache, start_cache
from models.config import PRE_NORM, TransformerConfig
from models.dropout import DropoutKey, dropout
from models.layers import (
    Attention,
    FeedForward,
    LayerNorm,
    TransformerLayer,
    causal_bias,
    segment_bias,
    uniform,
)
from models.loss import projected_cross_entropy

Batch = Mapping[str, tf.Tensor]

BOS_ID = 1
_STREAMS_PER_BLOCK = 4


class LossSums(NamedTuple):
    """Sums over the target tokens of a batch, as float32 scalars.

    Attributes:
        loss: Label-smoothed cross-entropy, in nats.
        log_likelihood_loss: Cross-entropy without smoothing, in nats.
        num_tokens: Target tokens, padding not counted.
    """

    loss: tf.Tensor
    log_likelihood_loss: tf.Tensor
    num_tokens: tf.Tensor


class Block(TransformerLayer):
    """An encoder or decoder block with its residual connections."""

    def __init__(
        self, config: TransformerConfig, *, seed: int, name: str, index: int
    ) -> None:
        """Makes the encoder's sub-layers; `DecoderBlock` adds to them."""
        super().__init__(config, seed=seed, name=name)
        self._first_stream = index * _STREAMS_PER_BLOCK
        made = {"config": config, "seed": seed}
        self.attention = Attention(
            **made, name=f"{name}_self_attention", is_cross=False
        )
        self.attention_norm = LayerNorm(**made, name=f"{name}_self_attention_norm")
        self.feed_forward = FeedForward(**made, name=f"{name}_feed_forward")
        self.feed_forward_norm = LayerNorm(**made, name=f"{name}_feed_forward_norm")

    def residual(
        self, x: tf.Tensor, norm: LayerNorm, sublayer: Any, key: Any, place: int
    ) -> tf.Tensor:
        """Returns x + dropout(sublayer(norm(x))), or the post-norm form of it."""
        is_pre = self.config.norm == PRE_NORM
        y = sublayer(norm(x) if is_pre else x)
        stream = self._first_stream + place
        y = dropout(y, rate=self.config.dropout_rate, key=key, stream=stream)
        return x + y if is_pre else norm(x + y)

    def self_attend(self, x: tf.Tensor, bias: tf.Tensor, key: Any) -> tf.Tensor:
        """Applies the self-attention sub-layer."""
        attention = self.attention

        def sublayer(y: tf.Tensor) -> tf.Tensor:
            return attention.attend(*attention.project_self(y), bias)

        return self.residual(x, self.attention_norm, sublayer, key, 0)

    def feed(self, x: tf.Tensor, key: Any) -> tf.Tensor:
        """Applies the feed-forward sub-layer."""
        return self.residual(x, self.feed_forward_norm, self.feed_forward, key, 1)

    def call(self, x: tf.Tensor, bias: tf.Tensor, key: Any) -> tf.Tensor:
        """Returns the block's output [B, S, D]."""
        return self.feed(self.self_attend(x, bias, key), key)


class DecoderBlock(Block):
    """A block that also attends to the encoder's output."""

    def __init__(
        self, config: TransformerConfig, *, seed: int, name: str, index: int
    ) -> None:
        """Adds the cross-attention."""
        super().__init__(config, seed=seed, name=name, index=index)
        made = {"config": config, "seed": seed}
        self.cross = Attention(**made, name=f"{name}_cross_attention", is_cross=True)
        self.cross_norm = LayerNorm(**made, name=f"{name}_cross_attention_norm")

    def cross_attend(
        self, x: tf.Tensor, memory: Any, bias: tf.Tensor, key: Any
    ) -> tf.Tensor:
        """Applies cross-attention to (key, value) `memory`."""

        def sublayer(y: tf.Tensor) -> tf.Tensor:
            return self.cross.attend(self.cross.project_query(y), *memory, bias)

        return self.residual(x, self.cross_norm, sublayer, key, 2)

    def call(
        self, x: tf.Tensor, memory: tf.Tensor, biases: tuple[Any, Any], key: Any
    ) -> tf.Tensor:
        """Returns the block's output [B, T, D] for the encoder's output."""
        x = self.self_attend(x, biases[0], key)
        x = self.cross_attend(x, self.cross.project_memory(memory), biases[1], key)
        return self.feed(x, key)

    def step(self, x: tf.Tensor, cache: Cache, layer: int, bias: tf.Tensor) -> Any:
        """Returns the output for one position and the longer self-cache.

        Args:
            x: [B, W, D], the newest token of each hypothesis.
            cache: Keys and values of the positions before.
            layer: Index of this block.
            bias: Of self-attention, [B, 1, W, t * W].

        Returns:
            [B, W, D], and this layer's keys and values, each [B, H, t * W, K].
        """
        new: list[tf.Tensor] = []

        def sublayer(y: tf.Tensor) -> tf.Tensor:
            query, key, value = self.attention.project_self(y)
            new.append(tf.concat([cache.self_keys[layer], key], axis=2))
            new.append(tf.concat([cache.self_values[layer], value], axis=2))
            return self.attention.attend(query, new[0], new[1], bias)

        x = self.residual(x, self.attention_norm, sublayer, None, 0)
        memory = (cache.memory_keys[layer], cache.memory_values[layer])
        x = self.cross_attend(x, memory, cache.memory_bias, None)
        return self.feed(x, None), new[0], new[1]


class Transformer(tf.keras.Model):
    """Encoder, decoder, and one embedding shared by source, target and output."""

    def __init__(self, config: TransformerConfig, *, seed: int = 0) -> None:
        """Makes all variables at once; no call is needed to build the model.

        Args:
            config: Sizes.
            seed: Seed of the initial values.
        """
        super().__init__(name="transformer")
        self.config = config
        made = {"config": config, "seed": seed}
        self.embedding = self.add_weight(
            name="embedding",
            shape=(config.vocab_size, config.model_dim),
            # Variance 1/D, as a normal distribution with deviation D^-0.5 has it.
            initializer=uniform(
                (3 / config.model_dim) ** 0.5, seed=seed, name="embedding"
            ),
        )
        # Each layer is an attribute of its own: TensorFlow's object graph does not
        # reach into the lists of a Keras 3 model, and a checkpoint would lack them.
        for index in range(config.num_encoder_layers):
            block = Block(**made, name=f"encoder_{index}", index=index)
            setattr(self, block.name, block)
        for index in range(config.num_decoder_layers):
            place = config.num_encoder_layers + index
            block = DecoderBlock(**made, name=f"decoder_{index}", index=place)
            setattr(self, block.name, block)
        if config.norm == PRE_NORM:
            self.encoder_norm = LayerNorm(**made, name="encoder_norm")
            self.decoder_norm = LayerNorm(**made, name="decoder_norm")
        self.built = True

    @property
    def encoder_blocks(self) -> list[Block]:
        """The encoder's blocks, first to last."""
        count = self.config.num_encoder_layers
        return [getattr(self, f"encoder_{index}") for index in range(count)]

    @property
    def decoder_blocks(self) -> list[DecoderBlock]:
        """The decoder's blocks, first to last."""
        count = self.config.num_decoder_layers
        return [getattr(self, f"decoder_{index}") for index in range(count)]

    def call(self, batch: Batch, key: DropoutKey | None = None) -> tf.Tensor:
        """Returns the logits of each target token given those before it.

        Args:
            batch: Packed rows, int32: `source`, `source_segments`,
                `source_positions` [B, S] and the same for `target` [B, T].
            key: Dropout key; no dropout if None.

        Returns:
            float32 [B, T, V].
        """
        return self.logits(self._outputs(batch, key))

    def loss_sums(self, batch: Batch, key: DropoutKey | None = None) -> LossSums:
        """Returns the summed losses over the target tokens of `batch`."""
        outputs = self._outputs(batch, key)
        weights = tf.cast(batch["target_segments"] > 0, tf.float32)
        smoothed, plain = projected_cross_entropy(
            tf.reshape(outputs, [-1, self.config.model_dim]),
            tf.cast(self.embedding, outputs.dtype),
            tf.reshape(batch["target"], [-1]),
            tf.reshape(weights, [-1]),
            smoothing=self.config.label_smoothing,
        )
        return LossSums(smoothed, plain, tf.reduce_sum(weights))

    def encode(self, batch: Batch, key: DropoutKey | None = None) -> tf.Tensor:
        """Returns the encoder's output [B, S, D]."""
        return self._encode(
            self._embed(batch["source"], batch["source_positions"]), batch, key
        )

    def decode(
        self, batch: Batch, memory: tf.Tensor, key: DropoutKey | None = None
    ) -> tf.Tensor:
        """Returns the decoder's output [B, T, D] under teacher forcing."""
        x = self._embed(_shifted_target(batch), batch["target_positions"])
        return self._decode(x, memory, batch, key)

    def _outputs(self, batch: Batch, key: DropoutKey | None) -> tf.Tensor:
        """Returns the decoder's output [B, T, D], embedding both sides at once.

        Two lookups and the logits would leave three gradients of the embedding to
        TensorFlow's AddN, which begins with whichever buffer it may overwrite: the
        order, and so the last bits, would depend on what else still holds one (seen
        with hosts that send tensors to each other). A sum of two has one order.
        """
        num_source = batch["source"].shape[1]
        ids = tf.concat([batch["source"], _shifted_target(batch)], axis=1)
        positions = tf.concat(
            [batch["source_positions"], batch["target_positions"]], axis=1
        )
        x = self._embed(ids, positions)
        memory = self._encode(x[:, :num_source], batch, key)
        return self._decode(x[:, num_source:], memory, batch, key)

    def _encode(self, x: tf.Tensor, batch: Batch, key: Any) -> tf.Tensor:
        x = self._embedding_dropout(x, key, side=0)
        segments = batch["source_segments"]
        bias = segment_bias(segments, segments, x.dtype)
        for block in self.encoder_blocks:
            x = block(x, bias=bias, key=key)
        return self.encoder_norm(x) if self.config.norm == PRE_NORM else x

    def _decode(
        self, x: tf.Tensor, memory: tf.Tensor, batch: Batch, key: Any
    ) -> tf.Tensor:
        x = self._embedding_dropout(x, key, side=1)
        segments = batch["target_segments"]
        biases = (
            segment_bias(segments, segments, x.dtype)
            + causal_bias(segments.shape[1], x.dtype),
            segment_bias(segments, batch["source_segments"], x.dtype),
        )
        for block in self.decoder_blocks:
            x = block(x, memory=memory, biases=biases, key=key)
        return self.decoder_norm(x) if self.config.norm == PRE_NORM else x

    def logits(self, x: tf.Tensor) -> tf.Tensor:
        """Returns float32 logits [..., V] of decoder outputs [..., D]."""
        weight = tf.cast(self.embedding, x.dtype)
        flat = tf.matmul(
            tf.reshape(x, [-1, self.config.model_dim]), weight, transpose_b=True
        )
        shape = tf.concat([tf.shape(x)[:-1], [self.config.vocab_size]], axis=0)
        return tf.cast(tf.reshape(flat, shape), tf.float32)

    def start_cache(
        self, memory: tf.Tensor, source_segments: tf.Tensor, *, width: Any
    ) -> Cache:
        """Returns an empty cache for decoding from the encoder's output.

        Args:
            memory: [B, S, D].
            source_segments: [B, S]; 0 is padding.
            width: W, hypotheses of each row, int or scalar tensor.
        """
        pairs = [
            tuple(block.cross.project_memory(memory)) for block in self.decoder_blocks
        ]
        return start_cache(pairs, source_segments == 0, width)

    def decode_step(
        self, tokens: tf.Tensor, position: tf.Tensor, cache: Cache
    ) -> tuple[tf.Tensor, Cache]:
        """Returns the logits after one more token, and the cache with it.

        Args:
            tokens: int32 [B, W], the newest token of each hypothesis.
            position: Scalar int32, its position.
            cache: Of all positions before.

        Returns:
            float32 [B, W, V] and the new cache.
        """
        x = self._embed(tokens, tf.fill(tf.shape(tokens), position))
        cache, bias = cache.enter(x.dtype)
        keys, values = [], []
        for layer, block in enumerate(self.decoder_blocks):
            x, key, value = block.step(x, cache, layer, bias)
            keys.append(key)
            values.append(value)
        x = self.decoder_norm(x) if self.config.norm == PRE_NORM else x
        cache = cache._replace(self_keys=tuple(keys), self_values=tuple(values))
        return self.logits(x), cache

    def _embed(self, ids: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
        dim = self.config.model_dim
        dtype = tf.as_dtype(self.config.compute_dtype)
        x = tf.gather(tf.convert_to_tensor(self.embedding), ids) * dim**0.5
        return tf.cast(x + _position_encoding(positions, dim), dtype)

    def _embedding_dropout(self, x: tf.Tensor, key: Any, *, side: int) -> tf.Tensor:
        num_blocks = len(self.encoder_blocks) + len(self.decoder_blocks)
        stream = num_blocks * _STREAMS_PER_BLOCK + side
        return dropout(x, rate=self.config.dropout_rate, key=key, stream=stream)


def _shifted_target(batch: Batch) -> tf.Tensor:
    """Returns the decoder's input [B, T]: the target, one later in each segment."""
    return tf.where(
        batch["target_positions"] == 0,
        BOS_ID,
        tf.pad(batch["target"][:, :-1], [[0, 0], [1, 0]]),
    )


def _position_encoding(positions: tf.Tensor, dim: int) -> tf.Tensor:
    """Returns the position encodings of the paper, section 3.5, float32 [..., D].

    Sines in the first half and cosines in the second, as tensor2tensor has it. They
    are computed anew each time: a table would be a constant in every graph, and
    larger than the weights of a small exported model.
    """
    rates = 10_000.0 ** -(np.arange(dim // 2) / (dim // 2 - 1))
    angles = tf.cast(positions, tf.float32)[..., None] * rates.astype(np.float32)
    return tf.concat([tf.sin(angles), tf.cos(angles)], axis=-1)


def build_transformer(config: TransformerConfig, *, seed: int) -> Transformer:
    """Returns a model whose initial values are a function of `seed`."""
    return Transformer(config, seed=seed)
