"""Exports the model of a training run as a SavedModel that translates text.

    python scripts/export_model.py --run-dir runs/demo

Exit codes: 0 exported, 2 wrong usage, 1 anything else.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

from resumable_tf.errors import EXIT_FAILED, EXIT_USAGE, ResumableError, UsageError

_console = Console(stderr=True, highlight=False, soft_wrap=True)


def main(
    run_dir: Annotated[str, typer.Option(help="Run directory or URL.")],
    step: Annotated[
        int | None,
        typer.Option(help="Checkpoint to export. [default: the newest]", min=0),
    ] = None,
    beam: Annotated[
        int, typer.Option(help="Hypotheses, unless a caller says otherwise.", min=1)
    ] = 4,
    records: Annotated[
        str | None,
        typer.Option(help="The run's records. [default: RUN_DIR/records]"),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="Directory of all versions. [default: RUN_DIR/export]"),
    ] = None,
) -> None:
    """Writes RUN_DIR/export/VERSION, a SavedModel that translates text."""
    # TensorFlow reads this when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from resumable_tf.serving.export_run import export_run

    try:
        exported = export_run(
            run_dir,
            build_model=_build_model,
            step=step,
            beam=beam,
            records=records,
            directory=output,
        )
    except ResumableError as error:
        _console.print(f"{type(error).__name__}: {error}", markup=False)
        raise SystemExit(
            EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
        ) from None
    info = exported.info
    verb = "exported" if exported.is_new else "had exported"
    print(f"{verb} step {exported.checkpoint.step} to {info.path}")
    print(f"  export          {_megabytes(info.size_bytes)}")
    print(
        f"  training state  {_megabytes(exported.checkpoint_bytes)}, "
        f"{exported.times_smaller:.1f} times as large"
    )


def _build_model(settings: Mapping[str, Any]) -> Any:
    from models import TransformerConfig, build_transformer

    config = TransformerConfig(**settings)
    # What is exported computes in float32, wherever it was trained.
    return build_transformer(
        dataclasses.replace(config, compute_dtype="float32"), seed=0
    )


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


if __name__ == "__main__":
    typer.run(main)
