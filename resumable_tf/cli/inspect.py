"""Shows what is in a checkpoint.

resumable-tf inspect runs/demo --step 500
"""

from __future__ import annotations

import json
import math
import sys
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from resumable_tf.checkpoint.catalog import Catalog
from resumable_tf.checkpoint.manifest import CheckpointInfo
from resumable_tf.checkpoint.run_config import read_run
from resumable_tf.cli.output import (
    RunDir,
    cell,
    guarded,
    open_run,
    size_bytes,
    text_of,
    time_of,
)
from resumable_tf.errors import EXIT_FINISHED, NoCheckpointError
from resumable_tf.storage import Storage


def inspect(
    run_dir: RunDir,
    step: Annotated[
        int | None, typer.Option(help="Which checkpoint. [default: the newest]")
    ] = None,
) -> None:
    """Shows one checkpoint: settings, position, versions, and every value in it."""
    sys.exit(guarded(lambda console: _inspect(console, open_run(run_dir), step)))


def _inspect(console: Console, storage: Storage, step: int | None) -> int:
    info = _find(storage, step)
    manifest = info.manifest
    run = read_run(storage)
    rows: list[tuple[str, Any]] = [
        ("step", manifest.step),
        ("path", info.path),
        ("epoch, batch", f"{text_of(manifest.epoch)}, {text_of(manifest.batch)}"),
        ("saved", time_of(manifest.time)),
        ("size", decimal(size_bytes(manifest))),
        ("data", manifest.data),
        ("metrics", manifest.metrics),
        ("extra", manifest.extra),
        ("topology", manifest.topology),
        ("versions", manifest.versions),
    ]
    if run is not None:
        rows += [("config", run.config), ("lineage", run.lineage)]
    facts = Table(box=None, show_header=False)
    for name, value in rows:
        text = value if isinstance(value, str) else json.dumps(value, default=dict)
        facts.add_row(f"[bold]{name}", cell(text))
    console.print(facts)
    table = Table("value", "shape", "dtype", "elements", box=box.SIMPLE)
    for key, spec in sorted(manifest.inventory.items()):
        table.add_row(
            cell(key),
            "x".join(map(str, spec.shape)) or "scalar",
            cell(spec.dtype),
            f"{math.prod(spec.shape):,}",
        )
    console.print(table)
    return EXIT_FINISHED


def _find(storage: Storage, step: int | None) -> CheckpointInfo:
    """Returns a checkpoint.

    Raises:
        NoCheckpointError: If it is not there.
    """
    catalog = Catalog(storage)
    if step is None:
        steps = catalog.steps()
        if not steps:
            raise NoCheckpointError(f"{storage.root} has no committed checkpoint")
        return catalog.info(steps[-1])
    catalog.require(step)
    return catalog.info(step)
