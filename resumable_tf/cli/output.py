"""What the commands about a run directory share: errors, text, numbers, times.

sys.exit(guarded(lambda console: show(console, open_run(run_dir))))
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from resumable_tf.checkpoint.manifest import Manifest
from resumable_tf.errors import (
    EXIT_FAILED,
    EXIT_USAGE,
    ResumableError,
    UsageError,
    printable,
)
from resumable_tf.storage import Storage, open_storage

_PIPE_WIDTH = 1000

RunDir = Annotated[str, typer.Argument(help="Run directory or URL.")]


def guarded(show: Callable[[Console], int]) -> int:
    """Runs a command; an error is printed and becomes the exit code."""
    survive_odd_text()
    # A file or a pipe gets whole lines; a terminal gets lines that fit.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(highlight=False, width=width)
    try:
        code = show(console)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone; keep Python from writing the rest at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (ResumableError, OSError, ImportError) as error:
        said = f"{type(error).__name__}: {printable(str(error))}"
        errors = Console(stderr=True, highlight=False, soft_wrap=True)
        errors.print(said, markup=False)
        _drop_unwritten()
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


def survive_odd_text() -> None:
    """Lets what the terminal's encoding does not have be shown as escapes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _drop_unwritten() -> None:
    """Keeps Python from a second failure at its exit, as with /dev/full."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_run(run_dir: str) -> Storage:
    """Opens a run directory that must be there.

    Raises:
        UsageError: If it is not.
    """
    storage = open_storage(run_dir)
    if "://" in storage.root:
        if not storage.list(""):
            raise UsageError(f"run directory {storage.root}: there is nothing")
        return storage
    if not os.path.isdir(storage.root):
        is_there = os.path.lexists(storage.root)
        what = "it is no directory" if is_there else "there is no such directory"
        raise UsageError(f"run directory {storage.root}: {what}")
    return storage


def cell(value: Any, *, style: str = "") -> Text:
    """Returns text from outside as a cell of a table, in which nothing is markup."""
    return Text(printable(str(value)), style=style)


def size_bytes(manifest: Manifest) -> int:
    """Returns the length of a checkpoint's files together."""
    return sum(record.size for record in manifest.files)


def text_of(value: Any) -> str:
    """Returns a cell of a table; a dash for what is unknown."""
    return "-" if value is None else str(value)


def time_of(secs: float) -> str:
    """Returns seconds since 1970 as a date and time."""
    try:
        when = datetime.datetime.fromtimestamp(secs, tz=datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):
        return f"{secs:g} s since 1970"
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")
