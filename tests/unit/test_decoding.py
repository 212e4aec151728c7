"""Greedy and beam search find what the full forward pass says, row by row."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.small_models import VOCAB_SIZE, random_pairs, randomized, small_config

from models import build_transformer
from resumable_tf.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from resumable_tf.serving.beam import beam_search, length_penalty, top_pieces
from resumable_tf.serving.decoding import (
    Decoded,
    LengthLimit,
    greedy_search,
    source_batch,
)

LIMIT = LengthLimit(factor=1, extra=5)
NEVER = [PAD_ID, BOS_ID, UNK_ID]
# Rounding: other shapes are multiplied in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-4}


@pytest.fixture(scope="module", params=["pre", "post"])
def model(request):
    config = small_config(norm=request.param)
    made = randomized(build_transformer(config, seed=3))
    # So that rows end at different steps.
    made.embedding.assign_add(np.eye(VOCAB_SIZE, 32, -EOS_ID, dtype=np.float32) * 0.5)
    return made


def padded(rows, width=None):
    width = width or max(map(len, rows))
    return np.array([[*row, *[PAD_ID] * (width - len(row))] for row in rows], np.int32)


def sources(num_rows, *, seed=0, max_length=7):
    pairs = random_pairs(num_rows, seed=seed, max_length=max_length)
    return [[*source, EOS_ID] for source, _ in pairs]


@pytest.fixture(scope="module")
def searches(model):
    """Greedy search for beam size 0, else beam search, traced once."""
    spec = tf.TensorSpec([None, None], tf.int32)
    greedy = tf.function(
        lambda source: greedy_search(model, source, limit=LIMIT),
        input_signature=[spec],
        autograph=False,
    )
    beam = tf.function(
        lambda source, beam_size: beam_search(
            model, source, beam_size=beam_size, limit=LIMIT
        ),
        input_signature=[spec, tf.TensorSpec([], tf.int32)],
        autograph=False,
    )

    def search(source, beam_size):
        found = beam(source, beam_size) if beam_size else greedy(source)
        return Decoded(*(value.numpy() for value in found))

    return search


@pytest.fixture(scope="module")
def forced_log_probs(model):
    """Log-probabilities [B, T, V] of the model's full forward pass."""

    @tf.function(autograph=False)
    def forward(source, tokens):
        batch = source_batch(source)
        for name, value in source_batch(tokens).items():
            batch[name.replace("source", "target")] = value
        return tf.nn.log_softmax(model(batch))

    return lambda source, tokens: forward(
        tf.constant(source, tf.int32), tf.constant(tokens, tf.int32)
    ).numpy()


def chosen_sum(log_probs, tokens):
    picked = np.take_along_axis(log_probs, tokens[..., None], axis=2)[..., 0]
    return np.where(tokens != PAD_ID, picked, 0).sum(axis=1)


def test_greedy_tokens_are_the_argmax_of_the_teacher_forced_forward(
    forced_log_probs, searches
):
    source = padded(sources(12))
    found = searches(source, 0)
    log_probs = forced_log_probs(source, found.tokens)
    np.testing.assert_allclose(
        found.scores, chosen_sum(log_probs, found.tokens), **CLOSE
    )
    log_probs[..., NEVER] = -np.inf
    best = log_probs.argmax(axis=2)
    limits = LIMIT.of(source).numpy()
    for row, length in enumerate(found.lengths):
        decided = length - (length == limits[row])
        np.testing.assert_array_equal(
            found.tokens[row, :decided], best[row, :decided], str(row)
        )
    assert len(set(found.lengths)) > 2, "the rows of this test must differ in length"


def test_beam_of_one_is_greedy_search(searches):
    source = padded(sources(12, seed=1))
    greedy, beam = searches(source, 0), searches(source, 1)
    np.testing.assert_array_equal(beam.tokens, greedy.tokens)
    penalty = length_penalty(greedy.lengths, 0.6).numpy()
    np.testing.assert_allclose(beam.scores, greedy.scores / penalty, **CLOSE)


@pytest.mark.parametrize("beam_size", [2, 4, 7])
def test_beam_scores_are_teacher_forced_log_probabilities(
    forced_log_probs, searches, beam_size
):
    source = padded(sources(8, seed=2))
    found = searches(source, beam_size)
    log_probs = forced_log_probs(source, found.tokens)
    penalty = length_penalty(found.lengths, 0.6).numpy()
    expected = chosen_sum(log_probs, found.tokens) / penalty
    np.testing.assert_allclose(found.scores, expected, **CLOSE)


def test_beam_search_finds_what_a_plain_python_search_finds(forced_log_probs, searches):
    rows = sources(4, seed=3, max_length=4)
    found = searches(padded(rows), 3)
    for row, tokens, score in zip(rows, found.tokens, found.scores, strict=True):
        expected, expected_score = plain_beam_search(forced_log_probs, row, 3)
        assert tokens[tokens != PAD_ID].tolist() == expected
        np.testing.assert_allclose(score, expected_score, **CLOSE)


def plain_beam_search(forced_log_probs, source, beam_size, alpha=0.6):
    """The search in lists, with a full forward pass for each step."""
    limit = int(LIMIT.of(np.array([source], np.int32))[0])
    sources = padded([source] * beam_size, width=5)
    alive, finished = [(0.0, [])], []
    for length in range(1, limit + 1):
        candidates = []
        inputs = padded([[*tokens, EOS_ID] for _, tokens in alive], width=10)
        inputs = np.resize(inputs, [beam_size, 10])
        log_probs = forced_log_probs(sources, inputs)[: len(alive), length - 1]
        for (score, tokens), row in zip(alive, log_probs, strict=True):
            for token in [EOS_ID] if length == limit else range(VOCAB_SIZE):
                if token not in NEVER:
                    candidates.append((score + row[token], [*tokens, token]))
        candidates = sorted(candidates, reverse=True)[: 2 * beam_size]
        for score, tokens in candidates[:beam_size]:
            if tokens[-1] == EOS_ID:
                finished.append((score / ((5 + length) / 6) ** alpha, tokens))
        alive = [c for c in candidates if c[1][-1] != EOS_ID][:beam_size]
        if not alive:
            break
        alive_score = alive[0][0] / ((5 + length) / 6) ** alpha
        if len(finished) >= beam_size and max(finished)[0] >= alive_score:
            break
    score, tokens = max(finished)
    return tokens, score


@pytest.mark.parametrize("beam_size", [0, 4])
def test_a_row_is_decoded_alike_alone_in_company_and_with_more_padding(
    searches, beam_size
):
    rows = sources(6, seed=4)
    together = searches(padded(rows), beam_size)
    wide = searches(padded(rows, width=23), beam_size)
    np.testing.assert_array_equal(wide.tokens, together.tokens)
    for index, row in enumerate(rows):
        alone = searches(padded([row]), beam_size)
        length = alone.lengths[0]
        assert length == together.lengths[index]
        np.testing.assert_array_equal(
            alone.tokens[0], together.tokens[index, : alone.tokens.shape[1]]
        )
        np.testing.assert_allclose(alone.scores[0], together.scores[index], **CLOSE)


@pytest.mark.parametrize("beam_size", [0, 1, 5])
def test_every_row_ends_with_eos_within_its_limit(searches, beam_size):
    rows = sources(10, seed=5)
    found = searches(padded(rows), beam_size)
    for row, tokens, length in zip(rows, found.tokens, found.lengths, strict=True):
        assert 1 <= length <= len(row) + 5
        assert tokens[length - 1] == EOS_ID
        assert not set(tokens[: length - 1].tolist()) & {EOS_ID, *NEVER}
        assert not tokens[length:].any()


@pytest.mark.parametrize("beam_size", [0, 3])
def test_no_rows_give_no_rows(searches, beam_size):
    found = searches(np.zeros([0, 4], np.int32), beam_size)
    assert found.tokens.shape[0] == found.scores.shape[0] == 0


@pytest.mark.parametrize("vocab_size", [31, 32, 50, 321])
def test_top_pieces_are_those_of_top_k(vocab_size):
    logits = tf.random.stateless_normal([5, 3, vocab_size], seed=[1, vocab_size])
    expected = tf.math.top_k(logits, k=20)
    values, pieces = top_pieces(logits, 20)
    np.testing.assert_array_equal(values, expected.values)
    np.testing.assert_array_equal(pieces, expected.indices)


def test_settings_that_can_not_work_are_refused(model):
    source = tf.constant(padded(sources(1)))
    with pytest.raises(ValueError, match="beam_size 0 must be at least 1"):
        beam_search(model, source, beam_size=0)
    with pytest.raises(ValueError, match=r"alpha -1.* must not be negative"):
        beam_search(model, source, beam_size=2, alpha=-1.0)
    with pytest.raises(ValueError, match="at least one token"):
        LengthLimit(extra=0)
