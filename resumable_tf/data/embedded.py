"""The embedded English-German corpus as a TensorFlow Datasets builder.

    builder = EmbeddedEnDe(data_dir="somewhere")
    builder.download_and_prepare()
    dataset = builder.as_dataset(split="train")      # {"en": string, "de": string}

The files, their licences and credits are in `corpus/` beside this module. Nothing
is downloaded.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

_CORPUS = Path(__file__).parent / "corpus"
_FILES = {"train": "train", "validation": "dev", "test": "test"}


class EmbeddedEnDe(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """83,843 sentence pairs from the help and interface texts of free software."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS's own attribute)

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "English-German pairs from translated help, handbooks and messages "
                "of free software; licences in the package's corpus/README.md."
            ),
            features=tfds.features.Translation(languages=("en", "de")),
            supervised_keys=("en", "de"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(split) for split in _FILES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        path = _CORPUS / f"{_FILES[split]}.tsv.gz"
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            for index, line in enumerate(lines):
                english, german = line.rstrip("\n").split("\t")
                yield index, {"en": english, "de": german}
