"""Keeps a checkpoint of a run whatever its policies say, also while it trains.

resumable-tf pin runs/demo 41000
resumable-tf pin runs/demo 41000 --remove
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from resumable_tf.checkpoint.catalog import Catalog
from resumable_tf.cli.output import RunDir, guarded, open_run
from resumable_tf.errors import EXIT_FINISHED, printable
from resumable_tf.storage import Storage


def pin(
    run_dir: RunDir,
    step: Annotated[int, typer.Argument(help="Step of a committed checkpoint.")],
    remove: Annotated[
        bool, typer.Option("--remove", help="Leave it to the policies again.")
    ] = False,
) -> None:
    """Keeps a checkpoint for ever, also in a run that trains."""
    sys.exit(guarded(lambda console: _pin(console, open_run(run_dir), step, remove)))


def _pin(console: Console, storage: Storage, step: int, remove: bool) -> int:
    catalog = Catalog(storage)
    if remove:
        catalog.unpin(step)
    else:
        catalog.pin(step)
    pinned = " ".join(map(str, sorted(catalog.pinned()))) or "none"
    console.print(f"{printable(storage.root)}: pinned {pinned}", markup=False)
    return EXIT_FINISHED
