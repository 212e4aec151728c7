"""Tells whether checkpoints can be restored.

resumable-tf verify gs://bucket/run
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from resumable_tf.checkpoint.integrity import verify_run
from resumable_tf.cli.output import RunDir, guarded, open_run
from resumable_tf.errors import EXIT_FAILED, EXIT_FINISHED, printable
from resumable_tf.storage import Storage


def verify(
    run_dir: RunDir,
    step: Annotated[
        list[int] | None, typer.Option(help="Only this one; again for more.")
    ] = None,
) -> None:
    """Reads checkpoints to their last byte; ends with 1 if one is damaged."""
    sys.exit(guarded(lambda console: _verify(console, open_run(run_dir), step)))


def _verify(console: Console, storage: Storage, steps: list[int] | None) -> int:
    num_damaged = num_read = 0
    for report in verify_run(storage, steps=steps):
        num_read += 1
        num_damaged += not report.is_good
        good = f"good, {report.num_files} files, {decimal(report.size_bytes)}"
        said = "; ".join(report.problems) or good
        console.print(f"step {report.step}: {printable(said)}", markup=False)
    if num_read == 0:
        console.print(
            f"{printable(storage.root)} has no committed checkpoint", markup=False
        )
        return EXIT_FAILED
    return EXIT_FAILED if num_damaged else EXIT_FINISHED
