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
from collections.abc import Iterator

import tensorflow as tf

# EFAULT, "Bad address", and the like would be bugs.
_NUMBERS = (
    "EACCES EBUSY EDQUOT EFBIG EHOSTDOWN EHOSTUNREACH EIO EISDIR ELOOP EMFILE EMLINK "
    "ENAMETOOLONG ENETDOWN ENETUNREACH ENFILE ENODEV ENOENT ENOLCK ENOLINK ENOMEDIUM "
    "ENOSPC ENOTDIR ENXIO EPERM EREMOTEIO EROFS ESTALE ETIMEDOUT ETXTBSY"
).split()


@contextlib.contextmanager
def as_os_errors() -> Iterator[None]:
    """Raises an `OSError` in place of an error of TensorFlow that quotes one.

    Raises:
        OSError: With the number of the system's error.
    """
    try:
        yield
    except tf.errors.OpError as error:
        number = _number_in(error.message)
        if number is None:
            raise
        raise OSError(number, f"{os.strerror(number)} ({error.message})") from error


def _number_in(message: str) -> int | None:
    """Returns the error of the system whose text is last in a message."""
    numbers = (getattr(errno, name) for name in _NUMBERS if hasattr(errno, name))
    found = {message.rfind(os.strerror(number)): number for number in numbers}
    return found[max(found)] if max(found) >= 0 else None
