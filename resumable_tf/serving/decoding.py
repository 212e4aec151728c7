"""Greedy search inside the graph, one token a step, and what beam search shares.

    decoded = greedy_search(model, source_BS)
    decoded.tokens, decoded.lengths, decoded.scores

What is found for a row does not depend on the other rows of the batch: a row has
its own limit of tokens, and padding is never attended to.

Shapes: B rows, W hypotheses of a row (the beam size), S source length, T target
length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from resumable_tf.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID

NEVER = (PAD_ID, BOS_ID, UNK_ID)
"""Pieces that no search chooses."""
IMPOSSIBLE = -1e9
"""A log-probability below all real ones."""


class Decodable(Protocol):
    """What a model must offer, `models.Transformer` among others."""

    def encode(self, batch: Mapping[str, Any]) -> Any:
        """Returns the encoder's output [B, S, D]."""

    def start_cache(self, memory: Any, source_segments: Any, *, width: Any) -> Any:
        """Returns an empty cache for W hypotheses of each row."""

    def decode_step(self, tokens: Any, position: Any, cache: Any) -> tuple[Any, Any]:
        """Returns float32 logits [B, W, V] after tokens [B, W], and the new cache.

        Its `reorder(parents)` returns it with hypothesis w of row b going on from
        hypothesis `parents[b, w]`.
        """


@dataclass(frozen=True)
class LengthLimit:
    """How many tokens a row may get, eos included.

    They are `factor` times its source tokens plus `extra`, and `most` at most.

    Attributes:
        factor: Target tokens for each source token, eos included.
        extra: Target tokens beside them.
        most: Target tokens of any row.
    """

    factor: int = 2
    extra: int = 10
    most: int = 512

    def __post_init__(self) -> None:
        """Checks that at least eos fits.

        Raises:
            ValueError: If it does not.
        """
        if self.factor < 0 or self.extra < 1 or self.most < 1:
            raise ValueError(f"{self}: a row needs at least one token")

    def of(self, source: tf.Tensor) -> tf.Tensor:
        """Returns the limit of each row, int32 [B], for source tokens [B, S]."""
        lengths = tf.reduce_sum(tf.cast(source != PAD_ID, tf.int32), axis=1)
        return tf.minimum(self.factor * lengths + self.extra, self.most)


class Decoded(NamedTuple):
    """The best hypothesis of each row.

    Attributes:
        tokens: int32 [B, T], eos included, then padding.
        lengths: int32 [B], eos included.
        scores: float32 [B], log-probability over length penalty; of greedy search the
            log-probability.
    """

    tokens: tf.Tensor
    lengths: tf.Tensor
    scores: tf.Tensor


def source_batch(source: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns what a model's `encode` takes, for one sentence a row.

    Args:
        source: int32 [B, S], padded with 0.
    """
    return {
        "source": source,
        "source_segments": tf.cast(source != PAD_ID, tf.int32),
        "source_positions": tf.zeros_like(source) + tf.range(tf.shape(source)[1]),
    }


def greedy_search(
    model: Decodable, source: tf.Tensor, *, limit: LengthLimit | None = None
) -> Decoded:
    """Returns the most probable token at each step, until eos.

    Pad, bos and unk are never chosen. A row that reaches its limit ends with eos.
    The scores are log-probabilities, without a length penalty.

    Args:
        model: A trained model.
        source: int32 [B, S], each row ending with eos and padded with 0.
        limit: Tokens a row may get; `LengthLimit()` if None.
    """
    limits = (limit or LengthLimit()).of(source)
    newest, cache = start(model, source, width=1)
    rows = tf.shape(source)[0]
    tokens = tf.zeros([rows, largest(limits)], tf.int32)
    state = (tokens, tf.zeros([rows]), tf.zeros([rows], tf.bool))

    def step(position: Any, newest: Any, cache: Any, state: Any) -> Any:
        tokens, scores, done = state
        logits, cache = model.decode_step(newest, position, cache)
        logits = logits[:, 0]
        allowed = logits + _never_bias(logits.shape[-1])
        token = tf.argmax(allowed, axis=1, output_type=tf.int32)
        token = tf.where(position + 1 >= limits, EOS_ID, token)
        most = tf.reduce_max(logits, axis=1, keepdims=True)
        score = tf.gather(logits, token, batch_dims=1) - log_total(logits, most)
        scores += tf.where(done, 0.0, score)
        tokens = write(tokens, position, tf.where(done, PAD_ID, token))
        done = tf.logical_or(done, token == EOS_ID)
        return position + 1, token[:, None], cache, (tokens, scores, done)

    *_, (tokens, scores, _) = loop(step, newest, cache, state, lambda state: state[2])
    return trimmed(tokens, scores)


def start(model: Decodable, source: tf.Tensor, *, width: Any) -> tuple[Any, Any]:
    """Encodes the source; returns bos for each hypothesis, and an empty cache."""
    batch = source_batch(source)
    cache = model.start_cache(
        model.encode(batch), batch["source_segments"], width=width
    )
    return tf.fill(tf.stack([tf.shape(source)[0], width]), BOS_ID), cache


def loop(step: Any, newest: Any, cache: Any, state: Any, done: Any) -> Any:
    """Runs `step` until every row of the state is done."""
    variables = (tf.constant(0), newest, cache, state)
    return tf.while_loop(
        lambda position, newest, cache, state: ~tf.reduce_all(done(state)),
        step,
        variables,
        # The cache grows.
        shape_invariants=tf.nest.map_structure(
            lambda tensor: tf.TensorShape([None] * tensor.shape.rank), variables
        ),
    )


def write(sequences: tf.Tensor, position: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
    """Returns sequences [..., T] with tokens [...] at `position`."""
    is_here = tf.range(tf.shape(sequences)[-1]) == position
    return tf.where(is_here, tokens[..., None], sequences)


def trimmed(tokens: tf.Tensor, scores: tf.Tensor) -> Decoded:
    """Cuts the positions that no row uses."""
    lengths = tf.reduce_sum(tf.cast(tokens != PAD_ID, tf.int32), axis=1)
    return Decoded(tokens[:, : largest(lengths)], lengths, scores)


def log_total(logits: tf.Tensor, most: tf.Tensor) -> tf.Tensor:
    """Returns the logarithm of the sum of exponentials over the vocabulary.

    Args:
        logits: float32 [..., V].
        most: The largest of them, [..., 1].
    """
    total = tf.reduce_sum(tf.exp(logits - most), axis=-1)
    return tf.math.log(total) + most[..., 0]


def largest(values: tf.Tensor) -> tf.Tensor:
    """Returns the largest of some values, at least 0 even if there are none."""
    return tf.reduce_max(tf.concat([[0], values], axis=0))


def _never_bias(vocab_size: int) -> tf.Tensor:
    """Returns 0 for the pieces that may be chosen, [V]."""
    return tf.reduce_sum(tf.one_hot(NEVER, vocab_size), axis=0) * IMPOSSIBLE
