"""Measures an exported model's BLEU and chrF on the test pairs of its records.

    python scripts/evaluate_translation.py --model runs/demo/export \
        --records runs/demo/records

Exit codes: 0 evaluated, 2 wrong usage (no export there), 1 anything else.
"""

from __future__ import annotations

import os
import time
from typing import Annotated, Any

import typer
from rich.console import Console

from resumable_tf.errors import EXIT_FAILED, EXIT_USAGE, ResumableError, UsageError

_console = Console(stderr=True, highlight=False, soft_wrap=True)


def main(
    model: Annotated[
        str, typer.Option(help="Export, directory of exports, or run directory.")
    ],
    records: Annotated[str, typer.Option(help="Prepared records with a test set.")],
    beam: Annotated[
        int | None, typer.Option(help="Hypotheses. [default: as exported]", min=1)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="First pairs only. [default: all]", min=1)
    ] = None,
    show: Annotated[int, typer.Option(help="Translations to print.", min=0)] = 3,
    batch_size: Annotated[int, typer.Option(help="Lines at a time.", min=1)] = 64,
) -> None:
    """Prints BLEU and chrF on the test pairs, and some translations."""
    # TensorFlow reads this when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from resumable_tf.serving.export_directory import find_export

    try:
        find_export(model)  # Before TensorFlow's seconds of import.
        from resumable_tf.data.prepare import read_test_pairs
        from resumable_tf.data.record_files import RecordSet
        from resumable_tf.serving.evaluate import evaluate
        from resumable_tf.serving.translator import Translator

        pairs = read_test_pairs(RecordSet.open(records))[:limit]
        translator = Translator.load(model, beam=beam)
        start = time.monotonic()
        result = evaluate(translator, pairs, batch_size=batch_size)
        secs = time.monotonic() - start
    except ResumableError as error:
        _console.print(f"{type(error).__name__}: {error}", markup=False)
        raise SystemExit(
            EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
        ) from None
    _print_examples(pairs, result["translations"], num_examples=show)
    _print_scores(result, secs)


def _print_examples(
    pairs: list[tuple[str, str]], translations: list[str], *, num_examples: int
) -> None:
    """Prints pairs from all over the test set."""
    every = max(1, len(pairs) // max(1, num_examples))
    for index in range(0, len(pairs), every)[:num_examples]:
        source, reference = pairs[index]
        print(f"source     {source}\nreference  {reference}")
        print(f"ours       {translations[index]}\n")


def _print_scores(result: dict[str, Any], secs: float) -> None:
    print(f"BLEU {result['bleu']:.2f}  {result['bleu_signature']}")
    print(f"chrF {result['chrf']:.2f}  {result['chrf_signature']}")
    print(
        f"{result['num_pairs']} sentences, beam {result['beam_size']}, {secs:.1f} s, "
        "with the first call's set-up"
    )


if __name__ == "__main__":
    typer.run(main)
