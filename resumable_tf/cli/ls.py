"""Lists the checkpoints of a run.

resumable-tf ls runs/demo
"""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from resumable_tf.checkpoint.catalog import Catalog
from resumable_tf.cli.output import RunDir, guarded, size_bytes, text_of, time_of
from resumable_tf.errors import EXIT_FAILED, EXIT_FINISHED
from resumable_tf.storage import Storage, open_storage


def ls(run_dir: RunDir) -> None:
    """Lists the committed checkpoints of a run, and damaged ones set aside."""
    sys.exit(guarded(lambda console: _list(console, open_storage(run_dir))))


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
            " ".join(f"{name}={value:.4g}" for name, value in manifest.metrics.items()),
        )
    unreadable = sorted(set(catalog.steps()) - {info.step for info in found})
    for step in unreadable:
        table.add_row(str(step), "", "", "", "", "its manifest is damaged")
    if found or unreadable:
        console.print(table)
    else:
        console.print(f"{storage.root} has no committed checkpoint", markup=False)
    for name in catalog.quarantined():
        console.print(f"in quarantine: {name}", markup=False)
    return EXIT_FAILED if unreadable else EXIT_FINISHED
