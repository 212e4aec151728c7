"""The Transformer: packed rows do not mix, decoding equals teacher forcing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.small_models import packed_batch, random_pairs, randomized, small_config

from models import transformer
from models.dropout import DropoutKey, seed_key
from models.transformer import BOS_ID, Transformer, build_transformer

NORMS = pytest.mark.parametrize("norm", ["pre", "post"])
KEY = DropoutKey(seed_key("dropout", 1), tf.constant(3, tf.int64), 0)


def make(norm: str, **changes: Any) -> Transformer:
    return randomized(build_transformer(small_config(norm=norm, **changes), seed=2))


def pair_places(batch: dict[str, tf.Tensor]) -> list[tuple[int, int]]:
    """Returns (row, segment) of each pair."""
    segments = batch["target_segments"].numpy()
    return [
        (r, s) for r in range(len(segments)) for s in range(1, segments[r].max() + 1)
    ]


def alone(batch: dict[str, tf.Tensor], row: int, segment: int) -> dict[str, tf.Tensor]:
    """Returns one pair of a packed batch in a row of its own, without padding."""
    single = {}
    for side in ("source", "target"):
        where = batch[f"{side}_segments"][row] == segment
        for suffix in ("", "_segments", "_positions"):
            single[side + suffix] = tf.boolean_mask(batch[side + suffix][row], where)
        single[f"{side}_segments"] = tf.ones_like(single[f"{side}_segments"])
    return {name: value[None] for name, value in single.items()}


@NORMS
@pytest.mark.parametrize(("encoder", "decoder"), [(3, 2), (1, 4)])
def test_formula_counts_exactly_the_variables_of_the_model(
    norm: str, encoder: int, decoder: int
) -> None:
    config = small_config(
        norm=norm, num_encoder_layers=encoder, num_decoder_layers=decoder
    )
    model = build_transformer(config, seed=1)
    variables = model.trainable_variables
    assert sum(int(np.prod(v.shape)) for v in variables) == config.num_parameters
    assert not model.non_trainable_variables
    assert {tf.as_dtype(v.dtype) for v in variables} == {tf.float32}


@NORMS
def test_logits_of_a_pair_are_the_same_packed_and_alone(norm: str) -> None:
    model = make(norm)
    batch = packed_batch(random_pairs(9, seed=1))
    together = model(batch).numpy()
    places = pair_places(batch)
    assert len(places) == 9 and max(segment for _, segment in places) > 2
    for row, segment in places:
        where = batch["target_segments"][row].numpy() == segment
        # Other matrix shapes add up in another order: float32 rounding, about 1e-6
        # of logits of size 1 to 10 after four blocks.
        np.testing.assert_allclose(
            model(alone(batch, row, segment)).numpy()[0],
            together[row][where],
            rtol=1e-4,
            atol=1e-4,
        )


@NORMS
def test_tokens_of_other_segments_and_of_padding_change_no_bit(norm: str) -> None:
    model = make(norm)
    batch = packed_batch(random_pairs(9, seed=1))
    logits = model(batch).numpy()
    generator = np.random.default_rng(0)
    for segment in (0, 1, 2):
        changed = dict(batch)
        for side in ("source", "target"):
            segments = batch[f"{side}_segments"].numpy()
            noise = generator.integers(4, 50, size=segments.shape)
            tokens = batch[side].numpy()
            changed[side] = tf.constant(
                np.where(segments == segment, noise, tokens), tf.int32
            )
        segments = batch["target_segments"].numpy()
        others = (segments != segment) & (segments > 0)
        new_logits = model(changed).numpy()
        np.testing.assert_array_equal(new_logits[others], logits[others])
        own = segments == segment
        assert (new_logits[own] != logits[own]).any()


@NORMS
def test_a_logit_depends_on_no_later_target_token(norm: str) -> None:
    model = make(norm)
    batch = packed_batch([(list(range(4, 14)), list(range(20, 38)))])
    logits = model(batch).numpy()
    for position in (0, 5, 17):
        tokens = batch["target"].numpy()
        tokens[0, position] = 45
        changed = model({**batch, "target": tf.constant(tokens)}).numpy()
        until = position + 1
        np.testing.assert_array_equal(changed[0, :until], logits[0, :until])
        assert (changed[0, until] != logits[0, until]).any()


@NORMS
def test_each_part_of_the_input_has_an_influence(norm: str) -> None:
    """Guards a mask that hides too much: source, segment start and positions count."""
    model = make(norm)
    batch = packed_batch(random_pairs(4, seed=3))
    logits = model(batch).numpy()
    used = batch["target_segments"].numpy() > 0
    for name in ("source", "source_positions"):
        changed = model({**batch, name: batch[name][:, ::-1]}).numpy()
        assert (changed[used] != logits[used]).any(axis=-1).all()
    positions = batch["target_positions"] * 2
    changed = model({**batch, "target_positions": positions}).numpy()
    assert (changed[used] != logits[used]).any(axis=-1).mean() > 0.5


def unpacked_batch(pairs: list[Any]) -> dict[str, tf.Tensor]:
    """Returns a batch of one pair a row; shorter sources are padded."""
    rows = [packed_batch([pair], source_length=8, target_length=6) for pair in pairs]
    return {name: tf.concat([row[name] for row in rows], 0) for name in rows[0]}


@NORMS
@pytest.mark.parametrize("width", [1, 3])
def test_decode_step_with_cache_equals_the_full_decode_of_each_hypothesis(
    norm: str, width: int
) -> None:
    """Hypotheses are reordered at random: each must keep its own past."""
    model = make(norm)
    generator = np.random.default_rng(1)
    sources = [list(range(4, 9)), [40, 6]]
    batch = unpacked_batch([(source, [4] * 5) for source in sources])
    memory = model.encode(batch)
    cache = model.start_cache(memory, batch["source_segments"], width=width)
    newest = np.full((2, width), BOS_ID)
    pasts: list[list[list[int]]] = [[[] for _ in range(width)] for _ in sources]
    for position in range(6):
        logits, cache = model.decode_step(
            tf.constant(newest, tf.int32), tf.constant(position), cache
        )
        targets = [
            (source, (past + [9] * 5)[:5])
            for source, of_row in zip(sources, pasts, strict=True)
            for past in of_row
        ]
        expected = model(unpacked_batch(targets)).numpy()[:, position]
        # One query a step adds up in another order than six: float32 rounding.
        np.testing.assert_allclose(
            logits.numpy().reshape(2 * width, -1), expected, rtol=1e-4, atol=1e-4
        )
        parents = generator.integers(0, width, size=(2, width))
        cache = cache.reorder(tf.constant(parents, tf.int32))
        newest = generator.integers(4, 50, size=(2, width))
        pasts = [
            [[*pasts[r][parents[r, w]], int(newest[r, w])] for w in range(width)]
            for r in range(2)
        ]


def test_decoding_in_a_graph_of_unknown_sizes_equals_eager_decoding() -> None:
    model = make("pre")
    ids = tf.TensorSpec([None, None], tf.int32)

    @tf.function(input_signature=[ids, ids, ids, tf.TensorSpec([], tf.int32)])
    def two_steps(source: Any, segments: Any, positions: Any, width: Any) -> Any:
        batch = {
            "source": source,
            "source_segments": segments,
            "source_positions": positions,
        }
        cache = model.start_cache(model.encode(batch), segments, width=width)
        first = tf.fill([tf.shape(source)[0], width], BOS_ID)
        logits, cache = model.decode_step(first, tf.constant(0), cache)
        tokens = tf.argmax(logits, axis=-1, output_type=tf.int32)
        cache = cache.reorder(tf.zeros_like(tokens))
        return model.decode_step(tokens, tf.constant(1), cache)[0]

    for width in (1, 4):
        batch = packed_batch(random_pairs(3, seed=2), source_length=width * 10)
        arguments = [batch[f"source{s}"] for s in ("", "_segments", "_positions")]
        actual = two_steps(*arguments, width)
        eager = two_steps.python_function(*arguments, tf.constant(width))
        # A graph's kernels may add up in another order: float32 rounding.
        np.testing.assert_allclose(actual, eager, rtol=1e-4, atol=1e-4)


@NORMS
def test_bfloat16_computes_in_bfloat16_with_float32_variables_and_logits(
    norm: str,
) -> None:
    wide, narrow = make(norm), make(norm, compute_dtype="bfloat16")
    assert {tf.as_dtype(v.dtype) for v in narrow.trainable_variables} == {tf.float32}
    batch = packed_batch(random_pairs(9, seed=1))
    memory = narrow.encode(batch)
    assert memory.dtype == tf.bfloat16
    seen = set()

    def record(x: tf.Tensor, **_: Any) -> tf.Tensor:
        seen.add(x.dtype)
        return x

    with pytest.MonkeyPatch.context() as patch:
        # Each sub-layer's result passes dropout: all of them, not only the last.
        patch.setattr(transformer, "dropout", record)
        assert narrow.decode(batch, memory).dtype == tf.bfloat16
    assert seen == {tf.bfloat16}
    used = batch["target_segments"].numpy() > 0
    logits = narrow(batch)
    assert logits.dtype == tf.float32
    difference = np.abs(logits.numpy() - wide(batch).numpy())[used]
    # bfloat16 has 8 bits: 0.4% a rounding, some tens of them on the way.
    assert 0 < difference.mean() < 0.05 * np.abs(wide(batch).numpy()[used]).mean()


@NORMS
def test_each_dropout_of_the_model_has_a_stream_of_its_own(norm: str) -> None:
    model = make(norm, dropout_rate=0.1, num_encoder_layers=3)
    streams: list[int] = []

    def record(x: tf.Tensor, *, rate: float, key: Any, stream: int) -> tf.Tensor:
        assert rate == 0.1 and key is KEY
        streams.append(stream)
        return x

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "dropout", record)
        model(packed_batch(random_pairs(2, seed=1)), key=KEY)
    # Two embeddings; attention and feed-forward; decoders have one attention more.
    assert len(streams) == len(set(streams)) == 2 + 3 * 2 + 2 * 3


@NORMS
def test_dropout_is_applied_in_training_only_and_follows_the_step(norm: str) -> None:
    model = make(norm, dropout_rate=0.25)
    batch = packed_batch(random_pairs(9, seed=1))
    plain = model(batch).numpy()
    np.testing.assert_array_equal(model(batch, key=None).numpy(), plain)
    first, again, later = (
        model(batch, key=DropoutKey(KEY.seed_key, tf.constant(s, tf.int64), 0)).numpy()
        for s in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != plain).mean() > 0.9 and (first != later).mean() > 0.9


@NORMS
def test_two_replicas_with_their_first_rows_compute_the_loss_of_one(norm: str) -> None:
    model = make(norm, dropout_rate=0.25)
    batch = packed_batch(random_pairs(12, seed=1))
    num_rows = batch["source"].shape[0]
    assert num_rows >= 3
    whole = model.loss_sums(batch, KEY)
    parts = []
    for begin, end in ((0, 1), (1, num_rows)):
        rows = {name: value[begin:end] for name, value in batch.items()}
        parts.append(model.loss_sums(rows, DropoutKey(KEY.seed_key, KEY.step, begin)))
    for total, one, two in zip(whole, *parts, strict=True):
        # Sums of other groups of rows: float32 rounding.
        np.testing.assert_allclose(one + two, total, rtol=1e-5)
    without = model.loss_sums(rows, DropoutKey(KEY.seed_key, KEY.step, 0))
    assert abs(float(without.loss - parts[1].loss)) > 1e-3


def test_loss_sums_are_those_of_the_logits_over_target_tokens_only() -> None:
    model = make("pre")
    batch = packed_batch(random_pairs(9, seed=1))
    sums = model.loss_sums(batch)
    log_probs = tf.nn.log_softmax(model(batch)).numpy().astype(np.float64)
    used = batch["target_segments"].numpy() > 0
    labels = np.take_along_axis(log_probs, batch["target"].numpy()[..., None], -1)
    plain = -labels[..., 0][used].sum()
    smoothed = 0.9 * plain - 0.1 * log_probs.mean(axis=-1)[used].sum()
    assert float(sums.num_tokens) == used.sum()
    # The reference adds up in float64; ours in float32.
    np.testing.assert_allclose(float(sums.log_likelihood_loss), plain, rtol=1e-5)
    np.testing.assert_allclose(float(sums.loss), smoothed, rtol=1e-5)


def test_empty_rows_add_nothing_to_the_loss_and_no_nan_to_gradients() -> None:
    model = make("pre")
    batch = packed_batch(random_pairs(9, seed=1))
    padded = {n: tf.pad(value, [[0, 2], [0, 0]]) for n, value in batch.items()}
    results = []
    for rows in (batch, padded):
        with tf.GradientTape() as tape:
            sums = model.loss_sums(rows)
        results.append((sums, tape.gradient(sums.loss, model.trainable_variables)))
    for one, other in zip(*(sums for sums, _ in results), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)  # order of the sum
    for one, other in zip(*(gradients for _, gradients in results), strict=True):
        # More rows split a matrix product elsewhere: float32 rounding.
        np.testing.assert_allclose(
            tf.convert_to_tensor(one), tf.convert_to_tensor(other), rtol=1e-3, atol=1e-4
        )


@NORMS
def test_a_plain_checkpoint_holds_every_variable_under_its_layer(
    norm: str, tmp_path: Path
) -> None:
    """Guards lists of layers, which the object graph of Keras 3 does not reach."""
    model = make(norm)
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "model"))
    saved = [
        (key, tf.train.load_variable(path, key))
        for key, _ in tf.train.list_variables(path)
        if key.endswith(".ATTRIBUTES/VARIABLE_VALUE") and "save_counter" not in key
    ]
    keys = "\n".join(key for key, _ in saved)
    for layer in (
        "encoder_0/attention/",
        "decoder_1/cross/",
        "decoder_1/feed_forward/",
    ):
        assert f"model/{layer}" in keys
    live = sorted(np.asarray(v).tobytes() for v in model.trainable_variables)
    assert sorted(value.tobytes() for _, value in saved) == live


def test_every_variable_has_a_gradient() -> None:
    model = make("post")
    with tf.GradientTape() as tape:
        loss = model.loss_sums(packed_batch(random_pairs(9, seed=1))).loss
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert gradient is not None and np.abs(tf.convert_to_tensor(gradient)).max() > 0
