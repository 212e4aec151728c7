"""How good translations are: BLEU and chrF, with the signatures that define them.

result = evaluate(Translator.load("runs/demo/export"), pairs)
result["bleu"], result["bleu_signature"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from resumable_tf.data.pairs import Pair
from resumable_tf.errors import UsageError
from resumable_tf.serving.translator import Translator


def evaluate(
    translator: Translator, pairs: Sequence[Pair], *, batch_size: int = 64
) -> dict[str, Any]:
    """Translates the first side of each pair and compares with the second.

    Args:
        translator: An exported model.
        pairs: Source and reference text.
        batch_size: Lines at a time.

    Returns:
        `bleu` and `chrf` (0 to 100), `bleu_signature` and `chrf_signature` (sacrebleu,
        Post 2018), `num_pairs`, `beam_size`, and `translations` in the pairs' order.

    Raises:
        UsageError: If there are no pairs.
    """
    if not pairs:
        raise UsageError("there are no pairs to evaluate; use a larger --limit.")
    found = translator.translate([source for source, _ in pairs], batch_size=batch_size)
    translations = [translation.text for translation in found]
    references = [[reference for _, reference in pairs]]
    result: dict[str, Any] = {
        "num_pairs": len(pairs),
        "beam_size": translator.beam_size,
        "translations": translations,
    }
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        result[name] = float(metric.corpus_score(translations, references).score)
        result[f"{name}_signature"] = str(metric.get_signature())
    return result
