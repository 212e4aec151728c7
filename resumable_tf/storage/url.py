"""From what a user writes to the storage that it means.

    open_storage("runs/tiny")          # LocalStorage
    open_storage("gs://bucket/run")    # ObjectStorage through gcsfs

Opening reads and writes nothing.
"""

from __future__ import annotations

import os

import fsspec

from resumable_tf.errors import UsageError, without_secrets
from resumable_tf.storage.local import LocalStorage
from resumable_tf.storage.object_store import ObjectStorage
from resumable_tf.storage.protocol import Storage


def open_storage(url: str | os.PathLike[str]) -> Storage:
    """Returns the storage for a path or URL; reads and writes nothing.

    Args:
        url: A path, "file://...", "gs://bucket/...", or any URL fsspec knows.

    Returns:
        A `LocalStorage` for paths, an `ObjectStorage` for URLs.

    Raises:
        UsageError: If `url` is empty, or of a kind that is not known or whose package
            is not installed.

    Example:
        >>> open_storage("memory://run").root
        'memory://run'
    """
    text = os.fspath(url)
    if not text:
        raise UsageError("the run directory is empty; give a path or a gs:// URL")
    if text.startswith("file://"):
        return LocalStorage(text[len("file://") :])
    if "://" in text:
        _check_scheme(text)
        return ObjectStorage(text)
    return LocalStorage(text)


def _check_scheme(url: str) -> None:
    """Refuses a URL that fsspec can't open.

    Raises:
        UsageError: If its kind is not known or its package not installed.
    """
    scheme = url.partition("://")[0].rpartition("::")[2]
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise UsageError(f"{without_secrets(url)}: {error}") from error
    except ValueError as error:
        raise UsageError(
            f"{without_secrets(url)}: {error}; use a path or a URL that fsspec knows, "
            "such as gs://bucket/run"
        ) from error
