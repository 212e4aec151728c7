"""Exports the model of a training run.

    exported = export_run("runs/demo", build_model=build_model)
    exported.info.path, exported.times_smaller

`build_model` makes an untrained model of the run's sizes: this package knows no
model of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resumable_tf.checkpoint import CheckpointInfo
from resumable_tf.serving.export import export_translator
from resumable_tf.serving.export_directory import (
    ExportInfo,
    find_export,
    list_versions,
)
from resumable_tf.serving.run_loader import load_run
from resumable_tf.storage import PathLike, open_storage, path_text


@dataclass(frozen=True)
class ExportedRun:
    """An export, and the checkpoint that it came from.

    Attributes:
        info: The export.
        checkpoint: The checkpoint.
        is_new: False if the newest export was made of this checkpoint before.
    """

    info: ExportInfo
    checkpoint: CheckpointInfo
    is_new: bool

    @property
    def checkpoint_bytes(self) -> int:
        """Size of the whole training state."""
        return sum(file.size for file in self.checkpoint.manifest.files)

    @property
    def times_smaller(self) -> float:
        """How many times the training state is as large as the export."""
        return self.checkpoint_bytes / self.info.size_bytes


def export_run(
    run_dir: PathLike,
    *,
    build_model: Callable[[Mapping[str, Any]], Any],
    step: int | None = None,
    beam: int = 4,
    records: PathLike | None = None,
    directory: PathLike | None = None,
) -> ExportedRun:
    """Writes `<run_dir>/export/<version>` from a committed checkpoint.

    Nothing is written if the newest version came from the same checkpoint with the
    same settings.

    Args:
        run_dir: Local or a URL; only read, but for the export.
        build_model: Makes a model from the `model` settings of run.json.
        step: Which checkpoint; the newest that verifies if None.
        beam: Hypotheses of each text, unless the caller of the export says otherwise.
        records: Directory of the run's records, if it is not where it was.
        directory: Of all versions; `<run_dir>/export` if None.

    Returns:
        The export.

    Raises:
        CheckpointCorruptError: If the checkpoint of `step` is damaged.
        CheckpointMismatchError: If it does not hold such a model.
        DataFormatError: If the records are not there.
        DataMismatchError: If the checkpoint was trained on other records.
        NoCheckpointError: If there is no checkpoint.
        UsageError: If there is no run, or `beam` is below 1.
    """
    run_dir = path_text(run_dir)
    run = load_run(run_dir)
    model = build_model(run.config["model"])
    checkpoint = run.restore_model(model, step=step)
    found = run.open_records(checkpoint, records)
    tokenizer = run.load_tokenizer(checkpoint, found)
    directory = directory or f"{run_dir.rstrip('/')}/export"
    source = run.source_of(checkpoint)
    newest = _newest(directory)
    if newest is not None and (
        newest.content["source"] == source and newest.content["beam_size"] == beam
    ):
        return ExportedRun(newest, checkpoint, is_new=False)
    info = export_translator(
        model, tokenizer.model, directory, beam_size=beam, source=source
    )
    return ExportedRun(info, checkpoint, is_new=True)


def _newest(directory: PathLike) -> ExportInfo | None:
    if not list_versions(open_storage(directory)):
        return None
    return find_export(directory)
