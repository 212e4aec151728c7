"""TensorFlow's errors about files, as the `OSError` that they stand for.

    with as_os_errors():
        manager.save()       # OSError(ENOSPC) instead of ResourceExhaustedError

TensorFlow makes one class of several errors of the system, and one of them stands for
memory too; but its message ends with the system's own text.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

import tensorflow as tf

# EFAULT, "Bad address", and the like would be bugs.
_NUMBERS = (
    "EACCES EBUSY EDQUOT EFBIG EHOSTDOWN EHOSTUNREACH EIO EISDIR ELOOP EMFILE EMLINK "
    "ENAMETOOLONG ENETDOWN ENETUNREACH ENFILE ENODEV ENOENT ENOLCK ENOLINK ENOMEDIUM "
    "ENOSPC ENOTDIR ENXIO EPERM EREMOTEIO EROFS ESTALE ETIMEDOUT ETXTBSY"
).split()


_PATH = re.compile(r"(?:\{\{.*?\}\} )?(.*?);? *$")


@contextlib.contextmanager
def as_os_errors() -> Iterator[None]:
    """Raises an `OSError` in place of an error of TensorFlow that quotes one.

    Raises:
        OSError: With the number of the system's error, and the file.
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = _find_error(error.message)
        if found is None:
            raise
        number, path = found
        raise OSError(number, os.strerror(number), path) from error


def _find_error(message: str) -> tuple[int, str] | None:
    """Returns the error of the system whose text is last in a message, and its file."""
    numbers = (getattr(errno, name) for name in _NUMBERS if hasattr(errno, name))
    found = {message.rfind(os.strerror(number)): number for number in numbers}
    place = max(found)
    if place < 0:
        return None
    path = _PATH.match(message[:place].replace("\n", " "))
    return found[place], path[1] if path else ""
