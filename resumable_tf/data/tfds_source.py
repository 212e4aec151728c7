"""Pairs from TensorFlow Datasets: the embedded corpus or any translation set.

    source = TfdsSource("tfds:wmt14_translate/de-en")
    pairs = source.read("validation")

The set must have a feature for `en` and one for `de`, as all of TFDS's translation
sets for this pair do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from resumable_tf.data.pairs import TEST, TRAIN, VALIDATION, Pair, clean_pairs
from resumable_tf.errors import DataFormatError, UsageError


class TfdsSource:
    """Reads `embedded` or `tfds:NAME/CONFIG` through its TFDS builder."""

    def __init__(self, spec: str, *, data_dir: str | None = None) -> None:
        """Keeps the name; the builder is made by the first `read`."""
        self.name = spec
        self.bad_lines: Counter[str] = Counter()
        self._data_dir = data_dir
        self._builder: Any = None

    def read(self, split: str) -> Iterator[Pair]:
        """Yields the pairs of `split`.

        A set without a validation split gives its test split for it, and the other
        way round.

        Raises:
            DataFormatError: If the set has no pair of `en` and `de`, or no such
                split.
            UsageError: If TFDS does not know the set.
        """
        import tensorflow_datasets as tfds

        if self._builder is None:
            self._builder = self._prepare()
        name = self._split_name(split)
        config = tfds.ReadConfig(interleave_cycle_length=1)
        examples = self._builder.as_dataset(
            split=name, shuffle_files=False, read_config=config
        )
        raw = ((e["en"].decode(), e["de"].decode()) for e in tfds.as_numpy(examples))
        bad: Counter[str] = Counter()
        yield from clean_pairs(raw, bad)
        if split == TRAIN:
            self.bad_lines.update(bad)

    def _prepare(self) -> Any:
        import tensorflow_datasets as tfds

        tfds.disable_progress_bar()
        if self.name == "embedded":
            from resumable_tf.data.embedded import EmbeddedEnDe

            builder: Any = EmbeddedEnDe(data_dir=self._data_dir)
        else:
            builder = self._load_builder(self.name.removeprefix("tfds:"))
        builder.download_and_prepare()
        if not {"en", "de"} <= set(builder.info.features):
            raise DataFormatError(
                f"--data {self.name}: it has the features "
                f"{sorted(builder.info.features)}, not 'en' and 'de'.\n"
                "Use a translation set of this pair, such as "
                "tfds:wmt14_translate/de-en.",
                path=self.name,
            )
        return builder

    def _load_builder(self, name: str) -> Any:
        import tensorflow_datasets as tfds

        try:
            return tfds.builder(name, data_dir=self._data_dir)
        except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
            # TFDS raises these for an unknown name, config and version, in this
            # order, and lists all its sets: a thousand lines.
            reason = "\n".join(str(error).strip().splitlines()[:12])
            raise UsageError(
                f"--data {self.name}: TFDS has no such set.\n{reason}\n"
                "Use the name and config of a translation set, such as "
                "tfds:wmt14_translate/de-en."
            ) from error

    def _split_name(self, split: str) -> str:
        """Returns the split of the set that serves as `split`.

        Raises:
            DataFormatError: If there is none.
        """
        fallback = {VALIDATION: TEST, TEST: VALIDATION}
        for name in (split, fallback.get(split)):
            if name in self._builder.info.splits:
                return str(name)
        raise DataFormatError(
            f"--data {self.name}: it has no split {split!r}, only "
            f"{sorted(self._builder.info.splits)}.",
            path=self.name,
        )
