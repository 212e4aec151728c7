"""Lists the checkpoints of a run.

resumable-tf ls runs/demo
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from resumable_tf.checkpoint.catalog import Catalog
from resumable_tf.cli.output import (
    RunDir,
    cell,
    guarded,
    open_run,
    size_bytes,
    text_of,
    time_of,
)
from resumable_tf.errors import EXIT_FAILED, EXIT_FINISHED, printable
from resumable_tf.storage import Storage


def ls(run_dir: RunDir) -> None:
    """Lists the committed checkpoints of a run, and damaged ones set aside."""
    sys.exit(guarded(lambda console: _list(console, open_run(run_dir))))


def _list(console: Console, storage: Storage) -> int:
    catalog = Catalog(storage)
    found = catalog.readable()
    table = Table("step", "epoch", "batch", "size", "saved", "metrics", box=box.SIMPLE)
    for info in found:
        manifest = info.manifest
        table.add_row(
            str(info.step),
            text_of(manifest.epoch),
            text_of(manifest.batch),
            decimal(size_bytes(manifest)),
            time_of(manifest.time),
            _metrics(manifest.metrics),
        )
    unreadable = sorted(set(catalog.steps()) - {info.step for info in found})
    for step in unreadable:
        table.add_row(str(step), "", "", "", "", "its manifest is damaged")
    if found or unreadable:
        console.print(table)
    else:
        where = printable(storage.root)
        console.print(f"{where} has no committed checkpoint", markup=False)
    for name in catalog.quarantined():
        console.print(f"in quarantine: {_line(name)}", markup=False)
    return EXIT_FAILED if unreadable else EXIT_FINISHED


def _metrics(metrics: Mapping[str, float]) -> Text:
    """Returns what was measured; names may hold brackets, which are no markup."""
    return cell(" ".join(f"{_line(k)}={v:.4g}" for k, v in metrics.items()))


def _line(name: str) -> str:
    """Returns a name from a file on one line."""
    return printable(name).replace("\n", r"\n")
