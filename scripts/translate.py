"""Translates lines of text from the standard input, one line each.

    echo "File not found." | python scripts/translate.py --model runs/demo/export

Exit codes: 0 translated, 2 wrong usage (no export there), 1 anything else.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from resumable_tf.errors import EXIT_FAILED, EXIT_USAGE, ResumableError, UsageError

_console = Console(stderr=True, highlight=False, soft_wrap=True)


def main(
    model: Annotated[
        str, typer.Option(help="Export, directory of exports, or run directory.")
    ],
    beam: Annotated[
        int | None, typer.Option(help="Hypotheses. [default: as exported]", min=1)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Lines at a time.", min=1)] = 64,
) -> None:
    """Translates lines from the standard input, in order, as they come in."""
    # TensorFlow reads this when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from resumable_tf.serving.export_directory import find_export

    try:
        find_export(model)  # Before TensorFlow's seconds of import.
        from resumable_tf.serving.stream import translate_stream
        from resumable_tf.serving.translator import Translator

        translator = Translator.load(model, beam=beam)
        num_cut = translate_stream(
            translator, sys.stdin.buffer, sys.stdout.buffer, batch_size=batch_size
        )
    except ResumableError as error:
        _console.print(f"{type(error).__name__}: {error}", markup=False)
        raise SystemExit(
            EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
        ) from None
    except BrokenPipeError:
        # The reader has gone; keep Python from writing the rest at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_FAILED) from None
    if num_cut:
        longest = translator.info.content["max_source_length"]
        _console.print(
            f"{num_cut} lines have more than {longest - 1} tokens; only their "
            "beginning was translated."
        )


if __name__ == "__main__":
    typer.run(main)
