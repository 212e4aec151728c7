"""Beam search inside the graph, one token a step.

    decoded = beam_search(model, source_BS, beam_size=4)
    decoded.tokens, decoded.lengths, decoded.scores

Shapes: B rows, W hypotheses of a row (the beam size), S source length, T target
length, V vocabulary, C candidates of a row, P pieces of a hypothesis.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from resumable_tf.data.tokenizer import EOS_ID
from resumable_tf.serving.decoding import (
    IMPOSSIBLE,
    NEVER,
    Decodable,
    Decoded,
    LengthLimit,
    largest,
    log_total,
    loop,
    start,
    trimmed,
    write,
)

_DEAD = -1e8
_GROUP_SIZE = 32


class _Beam(NamedTuple):
    """What the search keeps of each row, beside the model's cache.

    Attributes:
        alive: float32 [B, W], log-probabilities of the unfinished hypotheses.
        sequences: int32 [B, W, T], their tokens.
        best: int32 [B, T], the best finished hypothesis.
        best_scores: float32 [B], its score.
        num_finished: int32 [B].
        done: bool [B], whether the row's search is over.
    """

    alive: tf.Tensor
    sequences: tf.Tensor
    best: tf.Tensor
    best_scores: tf.Tensor
    num_finished: tf.Tensor
    done: tf.Tensor


class _Candidates(NamedTuple):
    """The C = 2W best continuations of each row, best first.

    At most W of them are eos, so that W others are left to go on with.

    Attributes:
        scores: float32 [B, C], log-probabilities.
        parents: int32 [B, C], the hypotheses that they continue.
        tokens: int32 [B, C].
    """

    scores: tf.Tensor
    parents: tf.Tensor
    tokens: tf.Tensor


def length_penalty(length: Any, alpha: float) -> Any:
    """Returns ((5 + length) / 6) ** alpha (Wu et al. 2016, equation 14)."""
    return ((5.0 + tf.cast(length, tf.float32)) / 6.0) ** alpha


def beam_search(
    model: Decodable,
    source: tf.Tensor,
    *,
    beam_size: int | tf.Tensor,
    alpha: float = 0.6,
    limit: LengthLimit | None = None,
) -> Decoded:
    """Returns the hypothesis of each row with the best score that the beam found.

    The score of a hypothesis is its log-probability over `length_penalty`, eos
    counted as a token; hypotheses finish among the best `beam_size` candidates of
    their step. A row's search ends when no unfinished hypothesis can get a better
    score than the best finished one, when `beam_size` have finished and none of the
    others would be better if it ended here, or at the row's limit, where each
    unfinished hypothesis gets eos. With one hypothesis this is greedy search. Pad,
    bos and unk are never chosen.

    Args:
        model: A trained model.
        source: int32 [B, S], each row ending with eos and padded with 0.
        beam_size: W, an int or an int32 scalar.
        alpha: Strength of the length penalty, at least 0.
        limit: Tokens a row may get; `LengthLimit()` if None.

    Raises:
        ValueError: If `alpha` is negative, or `beam_size` an int below 1.
    """
    if alpha < 0:
        raise ValueError(f"alpha {alpha} must not be negative")
    if isinstance(beam_size, int) and beam_size < 1:
        raise ValueError(f"beam_size {beam_size} must be at least 1")
    limits = (limit or LengthLimit()).of(source)
    newest, cache = start(model, source, width=beam_size)

    def step(position: Any, newest: Any, cache: Any, beam: _Beam) -> Any:
        logits, cache = model.decode_step(newest, position, cache)
        found = _candidates(logits, beam.alive, must_end=position + 1 >= limits)
        beam = _finish(beam, found, position, alpha)
        beam, parents, newest = _go_on(beam, found, position)
        beam = _end_rows(beam, position, limits, alpha=alpha)
        cache = cache.reorder(parents)
        return position + 1, newest, cache, beam

    empty = _start_beam(tf.shape(newest), largest(limits))
    *_, beam = loop(step, newest, cache, empty, lambda beam: beam.done)
    return trimmed(beam.best, beam.best_scores)


def _start_beam(shape: tf.Tensor, length: tf.Tensor) -> _Beam:
    """Returns a beam [B, W] in which only the first hypothesis of a row is alive."""
    rows, width = shape[0], shape[1]
    first = tf.range(width) == 0
    return _Beam(
        alive=tf.where(first, 0.0, IMPOSSIBLE) + tf.zeros([rows, 1]),
        sequences=tf.zeros([rows, width, length], tf.int32),
        best=tf.zeros([rows, length], tf.int32),
        best_scores=tf.fill([rows], IMPOSSIBLE),
        num_finished=tf.zeros([rows], tf.int32),
        done=tf.zeros([rows], tf.bool),
    )


def _candidates(
    logits: tf.Tensor, alive: tf.Tensor, *, must_end: tf.Tensor
) -> _Candidates:
    """Returns the best continuations of the hypotheses of each row.

    The few best pieces of each hypothesis are chosen by their logits, and only
    those are normalised: the order is the same.

    Args:
        logits: float32 [B, W, V].
        alive: float32 [B, W].
        must_end: bool [B], whether eos is the only choice.
    """
    width = tf.shape(alive)[1]
    special = (*NEVER, EOS_ID)
    num_pieces = tf.minimum(2 * width + len(special), logits.shape[-1])
    values, pieces = top_pieces(logits, num_pieces)
    totals = log_total(logits, values[..., :1])
    is_special = tf.reduce_any(pieces[..., None] == tf.constant(special), axis=-1)
    is_out = tf.logical_or(is_special, must_end[:, None, None])
    values = tf.where(is_out, IMPOSSIBLE, values)
    values = tf.concat([logits[..., EOS_ID : EOS_ID + 1], values], axis=-1)
    pieces = tf.pad(pieces, [[0, 0], [0, 0], [1, 0]], constant_values=EOS_ID)
    scores = values + (alive - totals)[..., None]
    flat = tf.stack([tf.shape(alive)[0], width * (num_pieces + 1)])
    scores, index = tf.math.top_k(tf.reshape(scores, flat), k=2 * width)
    tokens = tf.gather(tf.reshape(pieces, flat), index, batch_dims=1)
    return _Candidates(scores, index // (num_pieces + 1), tokens)


def top_pieces(logits: tf.Tensor, num_pieces: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the largest logits of each hypothesis and their ids, best first.

    The P largest values lie in the P groups of pieces with the largest maxima, and
    looking through those alone is three times as fast as `top_k` over all pieces.

    Args:
        logits: float32 [B, W, V].
        num_pieces: P, int or scalar tensor.

    Returns:
        float32 and int32 [B, W, P].
    """
    vocab_size = logits.shape[-1]
    num_groups = -(-vocab_size // _GROUP_SIZE)
    missing = num_groups * _GROUP_SIZE - vocab_size
    if missing:
        ends = [[0, 0], [0, 0], [0, missing]]
        logits = tf.pad(logits, ends, constant_values=2 * IMPOSSIBLE)
    shape = tf.shape(logits)[:2]
    grouped_shape = tf.concat([shape, [num_groups, _GROUP_SIZE]], axis=0)
    grouped = tf.reshape(logits, grouped_shape)
    maxima = tf.reduce_max(grouped, axis=-1)
    _, groups = tf.math.top_k(maxima, k=tf.minimum(num_pieces, num_groups))
    few = tf.gather(grouped, groups, batch_dims=2)
    few = tf.reshape(few, tf.concat([shape, [-1]], axis=0))
    values, index = tf.math.top_k(few, k=num_pieces)
    group = tf.gather(groups, index // _GROUP_SIZE, batch_dims=2)
    return values, group * _GROUP_SIZE + index % _GROUP_SIZE


def _finish(
    beam: _Beam, found: _Candidates, position: tf.Tensor, alpha: float
) -> _Beam:
    """Takes the candidates that end among the best W of their step."""
    rank = tf.range(tf.shape(found.scores)[1])
    ends = (
        (found.tokens == EOS_ID)
        & (rank < tf.shape(beam.alive)[1])
        & (found.scores > _DEAD)
        & ~beam.done[:, None]
    )
    scores = found.scores / length_penalty(position + 1, alpha)
    scores = tf.where(ends, scores, IMPOSSIBLE)
    chosen = tf.argmax(scores, axis=1, output_type=tf.int32)
    score = tf.gather(scores, chosen, batch_dims=1)
    parent = tf.gather(found.parents, chosen, batch_dims=1)
    sequence = tf.gather(beam.sequences, parent, batch_dims=1)
    sequence = write(sequence, position, tf.fill(tf.shape(parent), EOS_ID))
    is_better = score > beam.best_scores
    return beam._replace(
        best=tf.where(is_better[:, None], sequence, beam.best),
        best_scores=tf.where(is_better, score, beam.best_scores),
        num_finished=beam.num_finished + tf.reduce_sum(tf.cast(ends, tf.int32), axis=1),
    )


def _go_on(beam: _Beam, found: _Candidates, position: tf.Tensor) -> tuple[Any, ...]:
    """Returns the beam of the best unfinished candidates, their parents and tokens."""
    scores = tf.where(found.tokens == EOS_ID, 2 * IMPOSSIBLE, found.scores)
    alive, chosen = tf.math.top_k(scores, k=tf.shape(beam.alive)[1])
    parents = tf.gather(found.parents, chosen, batch_dims=1)
    tokens = tf.gather(found.tokens, chosen, batch_dims=1)
    sequences = tf.gather(beam.sequences, parents, batch_dims=1)
    sequences = write(sequences, position, tokens)
    return beam._replace(alive=alive, sequences=sequences), parents, tokens


def _end_rows(
    beam: _Beam, position: tf.Tensor, limits: tf.Tensor, *, alpha: float
) -> _Beam:
    """Ends the search of the rows in which going on would not help."""
    alive = beam.alive[:, 0]
    is_best_possible = beam.best_scores >= alive / length_penalty(limits, alpha)
    is_best_now = beam.best_scores >= alive / length_penalty(position + 1, alpha)
    # Without this comparison poor short hypotheses can end the search before a good
    # long one is found ("first come, first served", Kasai et al. 2022).
    has_enough = beam.num_finished >= tf.shape(beam.alive)[1]
    ends = is_best_possible | (has_enough & is_best_now) | (position + 1 >= limits)
    return beam._replace(done=beam.done | ends)
