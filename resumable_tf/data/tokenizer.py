"""A joint SentencePiece tokenizer with fixed ids for the special pieces.

    model = train_tokenizer(sentences, vocab_size=8000)     # bytes of a .model file
    tokenizer = Tokenizer(model)
    tokenizer.encode(["Hello"])                             # [[412, 7, 93]]

The same bytes go into the records, and into the export, where TensorFlow Text
reads them inside the graph.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Sequence

import sentencepiece

from resumable_tf.errors import UsageError

PAD_ID, BOS_ID, EOS_ID, UNK_ID = 0, 1, 2, 3

_PLACEHOLDERS = ["{0}", "{1}"]
_MAX_SENTENCES = 2_000_000


def train_tokenizer(sentences: Iterable[str], *, vocab_size: int) -> bytes:
    """Returns a SentencePiece model (BPE, NFKC) learned from `sentences`.

    Args:
        sentences: Text of both languages, one sentence each.
        vocab_size: Number of pieces, special ones included.

    Raises:
        UsageError: If the text can't give this number of pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="bpe",
            character_coverage=1.0,
            user_defined_symbols=_PLACEHOLDERS,
            input_sentence_size=_MAX_SENTENCES,
            shuffle_input_sentence=False,
            # The pieces must not depend on the machine's number of cores.
            num_threads=1,
            pad_id=PAD_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UsageError(_explain(str(error), vocab_size)) from error
    return model.getvalue()


def _explain(error: str, vocab_size: int) -> str:
    """Returns the message for a failed training: what is wrong, and how to mend it."""
    if "sentences_.empty()" in error:
        return "the tokenizer was given no text to learn from."
    if limit := re.search(r"required_chars\. \d+ vs (\d+)", error):
        cause = "the training text has more different characters than that."
        advice = f"Use at least {limit[1]}."
    else:
        limit = re.search(r"to a value <= (\d+)", error)
        cause = "the training text does not hold so many pieces."
        advice = f"Use {f'at most {limit[1]}' if limit else 'fewer'}, or more text."
    return f"--vocab-size {vocab_size}: {cause}\n{advice} (SentencePiece: {error})"


class Tokenizer:
    """Encodes and decodes text with the pieces of a trained model."""

    def __init__(self, model: bytes) -> None:
        """Loads the bytes of a `.model` file."""
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @property
    def vocab_size(self) -> int:
        """Number of pieces, special ones included."""
        return int(self._processor.get_piece_size())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model's bytes, in hex."""
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Returns the piece ids of each sentence, without bos and eos."""
        ids: list[list[int]] = self._processor.encode(list(sentences), out_type=int)
        return ids

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Returns the text of each list of ids; special pieces give no text."""
        texts: list[str] = self._processor.decode([list(map(int, row)) for row in ids])
        return texts
