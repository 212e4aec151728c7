"""The tokenizer's ids, determinism and round trip."""

from __future__ import annotations

import pytest
import sentencepiece
from helpers.records import text_pairs
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.data.tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    UNK_ID,
    Tokenizer,
    train_tokenizer,
)
from resumable_tf.errors import UsageError

SENTENCES = [side for pair in text_pairs(300) for side in pair] + ["Save {0} as {1}"]
TOKENIZER = Tokenizer(train_tokenizer(SENTENCES, vocab_size=150))


def test_special_pieces_have_the_ids_that_the_model_counts_on() -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=TOKENIZER.model)
    ids = [processor.pad_id(), processor.bos_id(), processor.eos_id()]
    assert [*ids, processor.unk_id()] == [PAD_ID, BOS_ID, EOS_ID, UNK_ID]
    assert [PAD_ID, BOS_ID, EOS_ID, UNK_ID] == [0, 1, 2, 3]


def test_two_trainings_on_the_same_text_give_the_same_bytes() -> None:
    again = Tokenizer(train_tokenizer(iter(SENTENCES), vocab_size=150))
    assert again.model == TOKENIZER.model
    assert again.fingerprint == TOKENIZER.fingerprint
    assert TOKENIZER.vocab_size == 150


def test_other_text_gives_another_fingerprint() -> None:
    other = Tokenizer(train_tokenizer([*SENTENCES[:-1], "another"], vocab_size=150))
    assert other.fingerprint != TOKENIZER.fingerprint


def test_known_text_comes_back_unchanged_and_uses_no_special_ids() -> None:
    ids = TOKENIZER.encode(SENTENCES)
    assert TOKENIZER.decode(ids) == SENTENCES
    assert min(min(row) for row in ids) > UNK_ID
    assert max(max(row) for row in ids) < TOKENIZER.vocab_size


@given(st.lists(st.text(max_size=30), max_size=5))
def test_any_text_encodes_to_ids_without_pad_bos_and_eos(texts: list[str]) -> None:
    for row in TOKENIZER.encode(texts):
        assert not {PAD_ID, BOS_ID, EOS_ID} & set(row)


def test_placeholders_are_single_pieces() -> None:
    ids = TOKENIZER.encode(["{0} {1}"])[0]
    assert TOKENIZER.decode([[id_] for id_ in ids if id_ in (4, 5)]) == ["{0}", "{1}"]


def test_decode_gives_no_text_for_special_pieces() -> None:
    ids = TOKENIZER.encode(["open the window"])[0]
    assert TOKENIZER.decode([[BOS_ID, *ids, EOS_ID, PAD_ID]]) == ["open the window"]


def test_too_large_vocabulary_is_refused_with_the_largest_possible() -> None:
    with pytest.raises(
        UsageError, match=r"--vocab-size 9000.*\nUse at most (\d+)"
    ) as e:
        train_tokenizer(SENTENCES, vocab_size=9000)
    largest = int(str(e.value).split("at most ")[1].split(",")[0])
    model = train_tokenizer(SENTENCES, vocab_size=largest)
    assert Tokenizer(model).vocab_size == largest


def test_vocabulary_smaller_than_the_alphabet_is_refused_with_the_smallest() -> None:
    letters = [chr(0x400 + index) * 3 for index in range(200)]
    with pytest.raises(UsageError, match=r"--vocab-size 64.*\nUse at least (\d+)") as e:
        train_tokenizer(letters, vocab_size=64)
    smallest = int(str(e.value).split("at least ")[1].split(".")[0])
    model = train_tokenizer(letters, vocab_size=smallest)
    assert Tokenizer(model).vocab_size == smallest


def test_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match="no text"):
        train_tokenizer([], vocab_size=100)
