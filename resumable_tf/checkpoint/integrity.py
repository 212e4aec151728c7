"""Whether the files of a checkpoint are what was written; needs no TensorFlow.

    for report in verify_run(storage):
        print(report.step, report.problems or "good")

    verify(record, read_file(storage, record))      # one file, raises

Everything is read once, in pieces; nothing is changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator

import google_crc32c

from resumable_tf.checkpoint.catalog import Catalog
from resumable_tf.checkpoint.catalog_files import is_lost, no_file_means_damage
from resumable_tf.checkpoint.layout import CHECKPOINTS
from resumable_tf.checkpoint.manifest import FileRecord, Manifest, hex_crc32c
from resumable_tf.errors import (
    CheckpointCorruptError,
    CheckpointVersionError,
)
from resumable_tf.storage import Storage


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What a look at one checkpoint has shown.

    Attributes:
        step: Which one.
        num_files: Files that its manifest lists.
        size_bytes: Their length together, as the manifest says.
        problems: What is wrong, a line each; empty if the checkpoint is good.
    """

    step: int
    num_files: int
    size_bytes: int
    problems: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether it can be restored."""
        return not self.problems


def verify_run(
    storage: Storage, *, steps: Collection[int] | None = None
) -> Iterator[StepReport]:
    """Reads committed checkpoints to their last byte, oldest first.

    All files of a damaged one are looked at, not only up to the first problem.

    Args:
        storage: The run directory.
        steps: Which ones; None means all.

    Yields:
        One report a checkpoint, as soon as it has been read.

    Raises:
        NoCheckpointError: If one of `steps` is not committed.
        OSError: If the storage itself fails, which says nothing of the files.
    """
    catalog = Catalog(storage)
    for step in steps or ():
        catalog.require(step)
    for step in catalog.steps():
        if steps is None or step in steps:
            yield verify_step(storage, step)


def verify_step(storage: Storage, step: int) -> StepReport:
    """Reads one committed checkpoint to its last byte.

    Args:
        storage: The run directory.
        step: A committed step.

    Returns:
        What it has shown.
    """
    try:
        manifest = Catalog(storage).read(step)
    except (CheckpointCorruptError, CheckpointVersionError) as error:
        return StepReport(step, 0, 0, (str(error),))
    problems = _problems(storage, manifest)
    size = sum(record.size for record in manifest.files)
    return StepReport(step, len(manifest.files), size, tuple(problems))


def _problems(storage: Storage, manifest: Manifest) -> Iterator[str]:
    for record in manifest.files:
        try:
            verify(record, read_file(storage, record))
        except CheckpointCorruptError as error:
            yield str(error)


def read_file(storage: Storage, record: FileRecord) -> Iterator[bytes]:
    """Yields a file of a committed bundle.

    Raises:
        CheckpointCorruptError: If it is missing, of another length or unreadable.
    """
    name = f"{CHECKPOINTS}/{record.name}"
    try:
        with no_file_means_damage(record.name):
            size = storage.size(name)
            if size != record.size:
                raise CheckpointCorruptError(
                    f"{record.name} has {size} bytes, the manifest says {record.size}"
                )
            yield from storage.read_chunks(name)
    except CheckpointCorruptError:
        raise
    except FileNotFoundError as error:
        raise CheckpointCorruptError(f"{record.name} is missing") from error
    except OSError as error:
        if not is_lost(error):
            raise
        raise CheckpointCorruptError(f"{record.name} can't be read: {error}") from error


def verify(record: FileRecord, chunks: Iterable[bytes]) -> None:
    """Reads a file to its end and compares it with its record.

    Raises:
        CheckpointCorruptError: If the contents are not those that were written.
    """
    _, checksum = measure(chunks)
    if checksum != record.crc32c:
        raise CheckpointCorruptError(
            f"{record.name} has crc32c {checksum}, the manifest says {record.crc32c}"
        )


def measure(chunks: Iterable[bytes]) -> tuple[int, str]:
    """Returns length and crc32c of what the chunks make together."""
    size, checksum = 0, 0
    for chunk in chunks:
        size += len(chunk)
        checksum = google_crc32c.extend(checksum, chunk)
    return size, hex_crc32c(checksum)
