"""A local directory by a name that TensorFlow does not take for a pattern.

    with literal_path("runs/lr=[0.1]") as directory:      # "/proc/self/fd/7"
        tf.train.load_checkpoint(f"{directory}/ckpt-5")

TensorFlow finds the files of a checkpoint by a pattern, which it then also opens as it
stands: no quoting can be right for both.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

_PATTERN = re.compile(r"[\[\]*?{}\\]")
"""What means something else in a pattern."""


@contextlib.contextmanager
def literal_path(directory: str) -> Iterator[str]:
    r"""Yields a path of a local directory without `[`, `]`, `*`, `?`, `{`, `}` or `\`.

    It is the directory's own unless that has one of them, or bytes that are no text.

    Args:
        directory: A local directory that exists.

    Yields:
        A path for this process alone, until the block ends.
    """
    if not _PATTERN.search(directory) and _is_text(directory):
        yield directory
        return
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
