"""From what a user writes to the storage that it means.

    open_storage("runs/tiny")          # LocalStorage
    open_storage("gs://bucket/run")    # ObjectStorage through gcsfs
    path_text(Path("runs/tiny"))       # "runs/tiny"

Opening reads and writes nothing.
"""

from __future__ import annotations

import os
import re

import fsspec

from resumable_tf.errors import UsageError, without_secrets
from resumable_tf.storage.local import LocalStorage
from resumable_tf.storage.object_store import ObjectStorage
from resumable_tf.storage.protocol import Storage

PathLike = str | os.PathLike[str]
"""What a user may give as a directory or file; URLs only as a `str`."""
_BROKEN_URL = re.compile(r"(gs|gcs|s3|s3a|abfs|abfss|az|hdfs|memory|https?|file):/[^/]")
"""What `pathlib.Path` makes of a URL."""


def path_text(path: PathLike) -> str:
    """Returns a path or URL as text; "~" stands for the home directory.

    Raises:
        UsageError: If it is bytes, or a `Path` that was made of a URL.
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise UsageError(f"{path!r} is bytes; give text: os.fsdecode({path!r})")
    if not isinstance(path, str) and _BROKEN_URL.match(text):
        raise UsageError(
            f"{path!r} was made of a URL, which a Path can't hold: it drops a slash; "
            f'pass the URL as a str: "{text.replace(":/", "://", 1)}"'
        )
    return os.path.expanduser(text) if text.startswith("~") else text


def storage_of(place: PathLike | Storage) -> Storage:
    """Returns the storage for a path or URL, and a storage as it is.

    Raises:
        UsageError: If it is a path or URL that `open_storage` refuses.
    """
    if isinstance(place, str | bytes | os.PathLike):
        return open_storage(place)
    return place


def open_storage(url: PathLike) -> Storage:
    """Returns the storage for a path or URL; reads and writes nothing.

    Args:
        url: A path, "file://...", "gs://bucket/...", or any URL fsspec knows.

    Returns:
        A `LocalStorage` for paths, an `ObjectStorage` for URLs.

    Raises:
        UsageError: If `url` is empty, or of a kind that is not known or whose package
            is not installed, or a `Path` made of a URL.

    Example:
        >>> open_storage("memory://run").root
        'memory://run'
    """
    text = path_text(url)
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
