"""Names the line of the user's program that made a TensorFlow operation.

source_of(operation)    # "train.py:31: y = tf.py_function(...)"
"""

from __future__ import annotations

import linecache
import sys
import sysconfig
from pathlib import Path
from typing import Any


def source_of(operation: Any) -> str:
    """Returns `file:line: text` of the innermost line that is no library's."""
    frames = list(operation.traceback)
    own = [frame for frame in frames if _is_own(frame.filename)]
    if not own:
        return "in a library, no line of the program"
    frame = own[-1]
    line = linecache.getline(frame.filename, frame.lineno).strip()
    return f"{frame.filename}:{frame.lineno}: {line}"


def _is_own(filename: str) -> bool:
    """Tells whether a file is the user's, and not Python's or a library's."""
    path = Path(filename)
    paths = sysconfig.get_paths()
    libraries = [paths["stdlib"], paths["purelib"], paths["platlib"], sys.base_prefix]
    if any(path.is_relative_to(library) for library in libraries):
        return False
    return not path.is_relative_to(Path(__file__).parent) and path.exists()
