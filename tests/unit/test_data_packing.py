"""Packing loses no pair, mixes none, and wastes little."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.data import embedded, packing
from resumable_tf.data.packing import (
    FIELDS,
    TokenPair,
    assign_rows,
    fits,
    pack,
    padding_share,
    unpack,
)
from resumable_tf.data.tokenizer import EOS_ID, Tokenizer, train_tokenizer

S, T = 9, 12
ids = st.integers(3, 65_535)
pairs_of_ids = st.lists(
    st.tuples(
        st.lists(ids, max_size=S - 1).map(tuple),
        st.lists(ids, max_size=T - 1).map(tuple),
    ),
    max_size=60,
)


def packed(pairs: list[TokenPair]) -> dict[str, np.ndarray]:
    return pack(pairs, source_length=S, target_length=T)


@given(pairs_of_ids)
def test_unpacking_gives_every_packed_pair_exactly_once(pairs: list[TokenPair]) -> None:
    again = [(tuple(source), tuple(target)) for source, target in unpack(packed(pairs))]
    assert sorted(again) == sorted(pairs)


@given(pairs_of_ids)
def test_segments_follow_each_other_and_positions_count_inside_them(
    pairs: list[TokenPair],
) -> None:
    rows = packed(pairs)
    assert set(rows) == set(FIELDS)
    for row in range(len(rows["source"])):
        numbers = []
        for side in ("source", "target"):
            tokens, segments, positions = (
                rows[side + suffix][row] for suffix in ("", "_segments", "_positions")
            )
            lengths = np.bincount(segments)
            used = int((segments > 0).sum())
            # Segments 1, 2, ... without a gap, then padding only: no overlap.
            expected = np.repeat(np.arange(1, len(lengths)), lengths[1:])
            np.testing.assert_array_equal(segments[:used], expected)
            counted = [np.arange(length) for length in lengths[1:]]
            np.testing.assert_array_equal(positions[:used], np.concatenate(counted))
            ends = np.cumsum(lengths[1:]) - 1
            assert (tokens[ends] == EOS_ID).all()
            for array in (tokens, segments, positions):
                assert not array[used:].any()
            numbers.append(set(segments[:used].tolist()))
        assert numbers[0] == numbers[1] != set()


@given(
    st.lists(st.tuples(st.integers(1, S), st.integers(1, T)), max_size=80),
    st.sampled_from([1, 2, 7, 1024]),
)
def test_rows_never_overflow_whatever_the_size_of_the_pool(
    lengths: list[tuple[int, int]], pool_size: int
) -> None:
    array = np.array(lengths, np.int32).reshape(-1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_POOL_SIZE", pool_size)
        rows = assign_rows(array, source_length=S, target_length=T)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    for row in rows:
        assert (array[row].sum(axis=0) <= (S, T)).all()


@given(st.lists(st.tuples(st.integers(1, S), st.integers(1, T)), max_size=80))
def test_a_pair_waits_for_no_more_than_a_pool_of_later_ones(
    lengths: list[tuple[int, int]],
) -> None:
    pool = 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_POOL_SIZE", pool)
        array = np.array(lengths, np.int32).reshape(-1, 2)
        rows = assign_rows(array, source_length=S, target_length=T)
    left = set(range(len(lengths)))
    for row in rows:
        assert row[0] == min(left)
        left -= set(row)


@given(pairs_of_ids)
def test_packing_is_a_function_of_the_pairs_alone(pairs: list[TokenPair]) -> None:
    first, second = packed(pairs), packed(list(pairs))
    for name in FIELDS:
        np.testing.assert_array_equal(first[name], second[name])


def test_pairs_up_to_a_whole_row_fit_and_longer_ones_are_refused() -> None:
    longest = ((5,) * (S - 1), (6,) * (T - 1))
    assert fits(longest, source_length=S, target_length=T)
    assert list(unpack(packed([longest]))) == [(list(longest[0]), list(longest[1]))]
    for pair in (((5,) * S, (6,)), ((5,), (6,) * T)):
        assert not fits(pair, source_length=S, target_length=T)
        with pytest.raises(ValueError, match="does not fit into a row of 9 and 12"):
            packed([pair])


@pytest.mark.parametrize("target_length", [64, 128])
def test_padding_of_real_text_is_under_three_percent(target_length: int) -> None:
    path = Path(embedded.__file__).parent / "corpus" / "train.tsv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        pairs = [line[:-1].split("\t") for line in islice(lines, 5000)]
    sides = list(zip(*pairs, strict=True))
    tokenizer = Tokenizer(train_tokenizer(sides[0] + sides[1], vocab_size=2000))
    tokens = list(zip(*map(tokenizer.encode, sides), strict=True))
    source, target = (sum(len(pair[i]) + 1 for pair in tokens) for i in (0, 1))
    lengths = {
        "source_length": round(target_length * source / target),
        "target_length": target_length,
    }
    rows = pack([pair for pair in tokens if fits(pair, **lengths)], **lengths)
    assert padding_share(rows) < 0.03
