"""What the commands about a run directory share: errors, numbers, times.

sys.exit(guarded(lambda console: show(console, open_storage(run_dir))))
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from resumable_tf.checkpoint.manifest import Manifest
from resumable_tf.errors import EXIT_FAILED, EXIT_USAGE, ResumableError, UsageError

_PIPE_WIDTH = 1000

RunDir = Annotated[str, typer.Argument(help="Run directory or URL.")]


def guarded(show: Callable[[Console], int]) -> int:
    """Runs a command; an error is printed and becomes the exit code."""
    # A file or a pipe gets whole lines; a terminal gets lines that fit.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(highlight=False, width=width)
    try:
        return show(console)
    except (ResumableError, OSError) as error:
        console.print(f"{type(error).__name__}: {error}", markup=False)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


def size_bytes(manifest: Manifest) -> int:
    """Returns the length of a checkpoint's files together."""
    return sum(record.size for record in manifest.files)


def text_of(value: Any) -> str:
    """Returns a cell of a table; a dash for what is unknown."""
    return "-" if value is None else str(value)


def time_of(secs: float) -> str:
    """Returns seconds since 1970 as a date and time."""
    when = datetime.datetime.fromtimestamp(secs, tz=datetime.timezone.utc)
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")
