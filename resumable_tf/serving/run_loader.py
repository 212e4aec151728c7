"""A training run, read to be exported or evaluated; nothing of it is changed.

    run = load_run("runs/demo")
    model = build_transformer(TransformerConfig(**run.config["model"]), seed=0)
    checkpoint = run.restore_model(model)

The run may be in training meanwhile: only committed checkpoints are read.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resumable_tf.checkpoint import Catalog, CheckpointInfo, read_run
from resumable_tf.checkpoint.bundle import open_bundle
from resumable_tf.checkpoint.reading import reading
from resumable_tf.data.record_files import RECORDS_FILE, RecordSet
from resumable_tf.data.tokenizer import Tokenizer
from resumable_tf.errors import (
    CheckpointCorruptError,
    DataFormatError,
    DataMismatchError,
    NoCheckpointError,
    UsageError,
)
from resumable_tf.state.one_object import restore_object
from resumable_tf.storage import PathLike, Storage, open_storage, path_text
from resumable_tf.storage.strict_json import shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run that has begun.

    Attributes:
        storage: Its directory.
        config: Its settings, from run.json.
        fingerprint: Of the settings.
    """

    storage: Storage
    config: Mapping[str, Any]
    fingerprint: str

    def open_records(
        self, info: CheckpointInfo, directory: PathLike | None = None
    ) -> RecordSet:
        """Opens the records that it is trained on.

        Args:
            info: A checkpoint of the run.
            directory: Where they are. If None: with the run. Where a checkpoint says
                that they were is only told: no file of a run leads out of it.

        Raises:
            DataFormatError: If they are not there or damaged.
        """
        if directory is not None:
            return RecordSet.open(directory)
        beside = self.storage.locate("records")
        if open_storage(beside).exists(RECORDS_FILE):
            return RecordSet.open(beside)
        named = shown(info.manifest.extra.get("records"))
        raise DataFormatError(
            f"{beside}: there is no prepared record set.\n"
            f"The checkpoint says that it was trained on {named}. Name the directory "
            "of its records with --records, if you trust it.",
            path=beside,
        )

    def load_tokenizer(self, info: CheckpointInfo, records: RecordSet) -> Tokenizer:
        """Loads the tokenizer that a checkpoint was trained with.

        Args:
            info: The checkpoint.
            records: The run's records.

        Raises:
            DataFormatError: If the tokenizer is damaged.
            DataMismatchError: If the checkpoint was trained on other records.
        """
        saved = (info.manifest.data or {}).get("fingerprint")
        if saved not in (None, records.fingerprint):
            raise DataMismatchError(
                f"checkpoint {info.step} was not trained on {records.directory}.\n"
                f"  checkpoint: fingerprint {saved}\n"
                f"  records:    fingerprint {records.fingerprint}\n"
                "Name the directory of its own records with --records.",
                saved={"fingerprint": saved},
                now={"fingerprint": records.fingerprint},
            )
        return records.load_tokenizer()

    def restore_model(self, model: Any, *, step: int | None = None) -> CheckpointInfo:
        """Restores the model, and nothing else, from a committed checkpoint.

        Args:
            model: A model of the run's sizes.
            step: Which checkpoint; the newest that verifies if None.

        Returns:
            What was restored.

        Raises:
            CheckpointCorruptError: If it is damaged.
            CheckpointMismatchError: If the model is another than the saved one.
            NoCheckpointError: If there is none.
        """
        catalog = Catalog(self.storage)
        steps = catalog.steps()
        if step is not None and step not in steps:
            raise NoCheckpointError(
                f"{self.storage.root} has no checkpoint of step {step}.\n"
                f"Use one of --step {', '.join(map(str, steps)) or '(there is none)'}."
            )
        for candidate in [step] if step is not None else reversed(steps):
            try:
                return self._restore(catalog, model, candidate)
            except CheckpointCorruptError as error:
                if step is not None:
                    raise
                logger.warning("checkpoint %d: %s; taking one before", candidate, error)
        raise NoCheckpointError(
            f"{self.storage.root} has no checkpoint that can be read.\n"
            "Train first: python scripts/train_translation.py --run-dir "
            f"{self.storage.root}"
        )

    def source_of(self, info: CheckpointInfo) -> dict[str, Any]:
        """Returns what an export says about the checkpoint it came from."""
        manifest = info.manifest.to_bytes()
        return {
            "step": info.step,
            "manifest": hashlib.sha256(manifest).hexdigest(),
            "run_config": self.fingerprint,
            "preset": self.config.get("preset"),
            "data": info.manifest.data,
        }

    def _restore(self, catalog: Catalog, model: Any, step: int) -> CheckpointInfo:
        """Restores one checkpoint.

        Raises:
            CheckpointCorruptError: If it is damaged, or was deleted meanwhile.
            CheckpointMismatchError: If the model is another than the saved one.
        """
        with reading(catalog, step):
            info = catalog.info(step)
            with open_bundle(self.storage, info.manifest) as path:
                restore_object(path, "model", model)
        return info


def load_run(directory: PathLike) -> Run:
    """Opens a run directory to read from it.

    Args:
        directory: Local or a URL.

    Raises:
        CheckpointCorruptError: If its run.json can't be read.
        UsageError: If it is no run directory.
    """
    directory = path_text(directory)
    storage = open_storage(directory)
    found = read_run(storage)
    if found is None:
        raise UsageError(
            f"--run-dir {directory}: there is no run (no run.json).\n"
            "Train first: python scripts/train_translation.py --run-dir " + directory
        )
    return Run(storage, found.config, found.fingerprint)
