"""Local files of a run that grow, or are written anew, and are no storage's.

    append_or_undo("runs/a/metrics/train.jsonl", b"...")
    replace_file("runs/a/metrics/train.jsonl", b"...")

The directory that a file is in must be one, and no link to one.
"""

from __future__ import annotations

import os
import stat

from resumable_tf.errors import StorageError
from resumable_tf.storage.directories import named, open_directory, open_parent
from resumable_tf.storage.local import LocalStorage


def append_or_undo(path: str, data: bytes, *, is_durable: bool = True) -> None:
    """Appends to a local file; a failure leaves nothing torn behind.

    Args:
        path: The file.
        data: What to append.
        is_durable: Whether to wait until it is on the disk.

    Raises:
        OSError: If that fails; with the file's path.
        StorageError: If a link, or something else that is no file, is there.
    """
    # Without NONBLOCK a pipe in its place would be waited for.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK
    with open_parent(*_split(path), makes=True) as (directory, name):
        if os.path.islink(path):
            raise StorageError(f"{path} is a link to {os.readlink(path)}; remove it")
        descriptor = os.open(name, flags, 0o666, dir_fd=directory)
        # Unbuffered: nothing is written later, while the file is closed.
        with named(path), open(descriptor, "ab", buffering=0) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise StorageError(f"{path} is no file; remove it")
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                if is_durable:
                    os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), found.st_size)
                raise


def replace_file(path: str, data: bytes) -> None:
    """Writes or replaces a local file atomically, and makes its directory."""
    root, name = _split(path)
    LocalStorage(root).write_bytes(name, data)


def make_directory(path: str) -> None:
    """Makes a directory and those above it; the last of them is no link."""
    with open_directory(*_split(path), makes=True):
        pass


def _split(path: str) -> tuple[str, str]:
    """Returns what may be a link, and the last two names, which may be none."""
    directory, base = os.path.split(os.path.abspath(path))
    above, last = os.path.split(directory)
    return (above, f"{last}/{base}") if last else (directory, base)
