"""The directory of a model's exports: `1/`, `2/`, ..., as TensorFlow Serving has it.

    find_export("runs/demo/export").path        # ".../export/2"

A version is there as a whole or not at all: on a local disk it is renamed into
place, on an object store its `saved_model.pb` is written last.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resumable_tf.errors import DataFormatError, UsageError
from resumable_tf.storage import PathLike, Storage, open_storage

MAX_BEAM_SIZE = 64
"""More would cost memory that whoever sends a text could use up."""
FORMAT_VERSION = 1
INFO_FILE = "export.json"
MODEL_FILE = "saved_model.pb"
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class ExportInfo:
    """A version of an exported model.

    Attributes:
        path: Its directory or URL, as `tf.saved_model.load` takes it.
        size_bytes: Of its files together, without `export.json`.
        content: What `export.json` says: `beam_size`, `alpha`, `max_source_length`,
            `tokenizer` (SHA-256), `source` (the checkpoint it came from), `files`
            (size of each), `versions`.
    """

    path: str
    size_bytes: int
    content: Mapping[str, Any]

    @property
    def version(self) -> str:
        """The name of its directory."""
        return os.path.basename(self.path)


def find_export(directory: PathLike) -> ExportInfo:
    """Returns the export in `directory`, or the newest of those below it.

    Args:
        directory: A version, the directory of all versions, or a run directory.

    Raises:
        DataFormatError: If its `export.json` can't be read.
        UsageError: If there is no export.
    """
    storage = open_storage(directory)
    for prefix in ("", "export/"):
        if prefix == "" and storage.exists(MODEL_FILE):
            return _read_info(storage, "")
        versions = list_versions(storage, prefix)
        if versions:
            return _read_info(storage, f"{prefix}{versions[-1]}/")
    raise UsageError(
        f"{directory}: there is no exported model.\n"
        "Make one with: python scripts/export_model.py --run-dir RUN_DIR"
    )


def list_versions(storage: Storage, prefix: str = "") -> list[int]:
    """Returns the complete versions below `prefix`, oldest first."""
    found = []
    for name in storage.list(prefix.rstrip("/")):
        version, _, file = name.removeprefix(prefix).partition("/")
        if version.isdecimal() and file == MODEL_FILE:
            found.append(int(version))
    return sorted(found)


@contextlib.contextmanager
def new_version(directory: PathLike) -> Iterator[Publication]:
    """Yields a local directory to fill, and publishes it as the next version.

    Nothing is left of it if the block fails.

    Args:
        directory: Of all versions; local or a URL.
    """
    storage = open_storage(directory)
    local = storage.local_path("")
    if local is not None:
        os.makedirs(local, exist_ok=True)
    work = tempfile.mkdtemp(prefix=_UNFINISHED, dir=local)
    publication = Publication(work=work)
    try:
        yield publication
        if local is not None:
            publication.path = _rename(storage, work)
        else:
            publication.path = _upload(storage, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@dataclass
class Publication:
    """A version on its way.

    Attributes:
        work: The local directory to fill.
        path: Where it is, once it is published.
    """

    work: str
    path: str = ""


def file_sizes(directory: str) -> dict[str, int]:
    """Returns the size of each file below a local directory, by relative name."""
    sizes = {}
    for folder, _, files in os.walk(directory):
        for file in files:
            path = os.path.join(folder, file)
            name = os.path.relpath(path, directory).replace(os.sep, "/")
            sizes[name] = os.path.getsize(path)
    return dict(sorted(sizes.items()))


def _rename(storage: Storage, work: str) -> str:
    """Makes the files durable and gives the directory the next free number."""
    # mkdtemp lets only its owner in; a server may run as somebody else.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(work, 0o777 & ~umask)
    for name in file_sizes(work):
        storage.sync(f"{os.path.basename(work)}/{name}")
    while True:
        version = _next_version(storage)
        target = storage.locate(str(version))
        try:
            os.rename(work, target)
        except OSError:
            if not os.path.exists(target):
                raise
            continue  # Another export was faster.
        storage.sync(f"{version}/{MODEL_FILE}")
        return target


def _upload(storage: Storage, work: str) -> str:
    version = _next_version(storage)
    names = sorted(file_sizes(work), key=lambda name: name == MODEL_FILE)
    for name in names:
        storage.upload(f"{version}/{name}", os.path.join(work, name))
    return storage.locate(str(version))


def _next_version(storage: Storage) -> int:
    """Returns a number above all that are there, complete or not."""
    taken = {name.partition("/")[0] for name in storage.list("")}
    return 1 + max((int(name) for name in taken if name.isdecimal()), default=0)


def _read_info(storage: Storage, prefix: str) -> ExportInfo:
    """Reads `export.json`.

    Raises:
        DataFormatError: If it is missing, damaged or of another format.
    """
    path = storage.locate(f"{prefix}{INFO_FILE}")
    try:
        content = json.loads(storage.read_bytes(f"{prefix}{INFO_FILE}"))
        version, files = content["format_version"], content["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFormatError(
            f"{path}: not the description of an export: {error!r}.\n"
            "Export the model again.",
            path=path,
        ) from error
    if version != FORMAT_VERSION:
        raise DataFormatError(
            f"{path}: format version {version}, this version reads {FORMAT_VERSION}.\n"
            "Export the model again.",
            path=path,
        )
    where = storage.locate(prefix.rstrip("/")) if prefix else storage.root
    return ExportInfo(where, sum(files.values()), content)
