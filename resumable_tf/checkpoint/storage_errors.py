"""What a storage says when a training can't begin, in words that help.

    @tells_storage_errors
    def restore(self, state): ...       # OSError becomes StorageError

A save that fails later has its own words, and may be tried again.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from resumable_tf.errors import ResumableError, StorageError
from resumable_tf.storage import Storage

_ADVICE = {
    errno.EROFS: "The disk can only be read: give another run directory, or mount it "
    "for writing",
    errno.EACCES: "This user may not do that: look at the owner and the permissions",
    errno.EPERM: "This user may not do that: look at the owner and the permissions",
    errno.ENOSPC: "The disk is full, or has no inode left: free some space",
    errno.EDQUOT: "This user's quota is used up: free some space",
    errno.EIO: "The disk, or the way to it, fails: look at the kernel's log",
    errno.ESTALE: "The network file system has changed below: mount it again",
    errno.ENOTCONN: "The network file system is gone: mount it again",
    errno.ETIMEDOUT: "The network file system does not answer: mount it again",
    errno.ENOTDIR: "A file is where a directory is needed: move it away",
    errno.EISDIR: "A directory is where a file is needed: move it away",
    errno.EMFILE: "This process has too many open files: raise `ulimit -n`",
    errno.ENAMETOOLONG: "The name is too long for this file system",
}


class _HasStorage(Protocol):
    storage: Storage


_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound=_HasStorage)


def tells_storage_errors(
    method: Callable[Concatenate[_S, _P], _R],
) -> Callable[Concatenate[_S, _P], _R]:
    """Returns the method of something with a storage; its `OSError` say what to do."""

    @functools.wraps(method)
    def told(self: _S, /, *arguments: _P.args, **keywords: _P.kwargs) -> _R:
        try:
            return method(self, *arguments, **keywords)
        except ResumableError:
            raise
        except OSError as error:
            told_error = StorageError(
                f"{self.storage.root} can't be used: {describe_storage_error(error)}"
            )
            told_error.errno = error.errno
            raise told_error from error

    return told


def describe_storage_error(error: OSError) -> str:
    """Returns an error's text, and what to do about it."""
    advice = _ADVICE.get(error.errno or 0, "Look at the disk")
    return f"{error}.\n{advice}, and start again. Nothing that was saved is lost."
