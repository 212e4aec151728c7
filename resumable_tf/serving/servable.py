"""From text to text inside one graph: tokenizer, search and weights together.

    servable = Servable(model, tokenizer_model, settings=ServableSettings(beam_size=4))
    servable.translate(tf.constant(["Hello"]), beam_size=tf.constant(1))

It holds the weights and the tokenizer and nothing else that can change: no
optimizer, no dropout, no step.

Shapes: N texts, S source length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
import tensorflow_text

from resumable_tf.data.tokenizer import EOS_ID, PAD_ID
from resumable_tf.errors import UsageError
from resumable_tf.serving.beam import beam_search
from resumable_tf.serving.decoding import LengthLimit
from resumable_tf.serving.export_directory import MAX_BEAM_SIZE

_TEXT = tf.TensorSpec([None], tf.string, name="text")
_BEAM_SIZE = tf.TensorSpec([], tf.int32, name="beam_size")


@dataclass(frozen=True)
class ServableSettings:
    """How an exported translator searches.

    Attributes:
        beam_size: Hypotheses of each text, unless the caller says otherwise.
        alpha: Strength of the length penalty.
        max_source_length: Tokens of a source, eos included. Of a longer one only
            the beginning is translated.
        limit: Tokens of a translation.
    """

    beam_size: int = 4
    alpha: float = 0.6
    max_source_length: int = 256
    limit: LengthLimit = field(default_factory=LengthLimit)

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            UsageError: If a value can't work.
        """
        if not 1 <= self.beam_size <= MAX_BEAM_SIZE:
            raise UsageError(f"--beam {self.beam_size}: use 1 to {MAX_BEAM_SIZE}.")
        if not 0 <= self.alpha < math.inf:
            raise UsageError(f"alpha {self.alpha} must be 0 or more, and finite")
        if self.max_source_length < 2:
            raise UsageError(
                f"max_source_length {self.max_source_length} must be at least 2"
            )


class Servable(tf.Module):  # type: ignore[misc]
    """What the SavedModel is made of.

    Attributes:
        weights: The model's variables.
        tokenizer: SentencePiece, as TensorFlow Text has it.
        translate: (text string [N], beam_size int32) -> translation, score.
        count_tokens: text string [N] -> int32 [N], source tokens without eos.
    """

    def __init__(
        self, model: Any, tokenizer_model: bytes, *, settings: ServableSettings
    ) -> None:
        """Traces nothing yet.

        Args:
            model: See `decoding.Decodable`; a Keras model, whose `weights` are kept.
            tokenizer_model: Bytes of the SentencePiece model it was trained with.
            settings: How to search.
        """
        super().__init__(name="translator")
        self.weights = [_variable_of(weight) for weight in model.weights]
        self.tokenizer = tensorflow_text.SentencepieceTokenizer(
            model=tokenizer_model, out_type=tf.int32
        )
        self.translate = tf.function(
            self._make_translate(model, settings),
            input_signature=[_TEXT, _BEAM_SIZE],
            autograph=False,
        )
        self.count_tokens = tf.function(
            self._count_tokens, input_signature=[_TEXT], autograph=False
        )
        self._default_beam_size = settings.beam_size

    def signatures(self) -> dict[str, Any]:
        """Returns `serving_default` (text) and `beam` (text and beam_size)."""

        def serving_default(text: tf.Tensor) -> Any:
            return self.translate(text, tf.constant(self._default_beam_size))

        default = tf.function(serving_default, input_signature=[_TEXT], autograph=False)
        return {"serving_default": default, "beam": self.translate}

    def _make_translate(self, model: Any, settings: ServableSettings) -> Any:
        # The model is not an attribute: TensorFlow would export its methods too.
        def translate(text: tf.Tensor, beam_size: tf.Tensor) -> dict[str, tf.Tensor]:
            checks = [
                tf.debugging.assert_positive(
                    beam_size, message="beam_size must be at least 1"
                ),
                tf.debugging.assert_less_equal(
                    *(beam_size, MAX_BEAM_SIZE),
                    message=f"beam_size must be at most {MAX_BEAM_SIZE}",
                ),
            ]
            with tf.control_dependencies(checks):
                tokens = self.tokenizer.tokenize(text)
            decoded = beam_search(
                model,
                _as_rows(tokens, settings.max_source_length),
                beam_size=beam_size,
                alpha=settings.alpha,
                limit=settings.limit,
            )
            pieces = tf.RaggedTensor.from_tensor(decoded.tokens, decoded.lengths - 1)
            translation = self.tokenizer.detokenize(pieces)
            is_empty = tokens.row_lengths() == 0
            return {
                "translation": tf.where(is_empty, "", translation),
                "score": tf.where(is_empty, 0.0, decoded.scores),
            }

        return translate

    def _count_tokens(self, text: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.tokenizer.tokenize(text).row_lengths(), tf.int32)


def _as_rows(tokens: tf.RaggedTensor, max_length: int) -> tf.Tensor:
    """Returns the tokens cut, each row ended with eos, and padded, [N, S]."""
    tokens = tokens[:, : max_length - 1]
    eos = tf.fill(tf.stack([tokens.nrows(), 1]), EOS_ID)
    return tf.concat([tokens, tf.cast(eos, tf.int32)], axis=1).to_tensor(PAD_ID)


def _variable_of(weight: Any) -> tf.Variable:
    """Returns the TensorFlow variable; in Keras 3 it is inside the weight."""
    return weight if isinstance(weight, tf.Variable) else weight.value
