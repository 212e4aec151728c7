"""The one line by which a resume makes itself known.

    announce_resume(140, "runs/demo", took_secs=0.4)    # for a loop
    announce("resumed from step 140 ...", stream=sys.stdout)

Python shows no INFO records unless a program asks for them, and a resume that says
nothing looks like one that did not happen. So who shows this library's INFO records
gets one, and everybody else the line itself: never both, and never neither.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

_log = logging.getLogger(__name__)


def announce(line: str, *, stream: TextIO) -> None:
    """Says something that its reader should not have to ask for.

    Args:
        line: Without a line break.
        stream: Where it goes unless the program shows INFO records.
    """
    if _is_shown():
        _log.info("%s", line)
        return
    stream.write(f"{line}\n")
    stream.flush()


def announce_resume(step: int, run_dir: str, *, took_secs: float) -> None:
    """Says where a loop goes on.

    Args:
        step: Completed steps.
        run_dir: What it was restored from.
        took_secs: How long that took, in seconds.
    """
    line = f"resumed from step {step} of {run_dir} in {took_secs:.1f} s"
    announce(line, stream=sys.stderr)


def _is_shown() -> bool:
    """Returns whether an INFO record comes to a handler that lets it through."""
    if not _log.isEnabledFor(logging.INFO):
        return False
    logger: logging.Logger | None = _log
    while logger is not None:
        if any(handler.level <= logging.INFO for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False
