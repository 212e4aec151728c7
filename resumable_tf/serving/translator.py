"""Translates lines of text with an exported model.

translator = Translator.load("runs/demo/export")
for translation in translator.translate(["The file was not found.", ""]):
    print(translation.text, translation.score)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the tokenizer's operations

from resumable_tf.errors import DataFormatError, UsageError
from resumable_tf.serving.export_directory import (
    MAX_BEAM_SIZE,
    ExportInfo,
    find_export,
)
from resumable_tf.storage import PathLike
from resumable_tf.storage.literal_path import literal_path

_BATCH_SIZE = 64


@dataclass(frozen=True)
class Translation:
    """The translation of one line.

    Attributes:
        text: Empty for an empty line.
        score: Log-probability over length penalty, in nats; 0 for an empty line.
        is_truncated: Whether the line was so long that only its beginning was
            translated.
    """

    text: str
    score: float
    is_truncated: bool = False


class Translator:
    """An exported model, ready to translate.

    Attributes:
        info: The export.
        beam_size: Hypotheses of each line.
    """

    def __init__(self, loaded: Any, info: ExportInfo, *, beam_size: int) -> None:
        """Keeps what `load` found.

        Args:
            loaded: What `tf.saved_model.load` returned.
            info: The export.
            beam_size: Hypotheses of each line.
        """
        self.info = info
        self.beam_size = beam_size
        self._loaded = loaded

    @classmethod
    def load(cls, directory: PathLike, *, beam: int | None = None) -> Translator:
        """Loads an export.

        Args:
            directory: A version, the directory of all versions, of which the newest
                is taken, or a run directory; local or a URL.
            beam: Hypotheses of each line; as exported if None.

        Raises:
            DataFormatError: If the export can't be read.
            UsageError: If there is none, or `beam` is not 1 to 64.
        """
        if beam is not None and not 1 <= beam <= MAX_BEAM_SIZE:
            raise UsageError(f"--beam {beam}: use 1 to {MAX_BEAM_SIZE}.")
        info = find_export(directory)
        try:
            loaded = _load(info.path)
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise DataFormatError(
                f"{info.path}: the exported model can't be loaded: {error}\n"
                "Export the model again.",
                path=info.path,
            ) from error
        return cls(loaded, info, beam_size=beam or info.content["beam_size"])

    def translate(
        self, lines: Iterable[str], *, batch_size: int = _BATCH_SIZE
    ) -> list[Translation]:
        """Returns the translation of each line, in order.

        Lines of similar length are translated together. Which lines share a batch
        changes scores by rounding only.

        Args:
            lines: Source text, one sentence each; also an array of strings.
            batch_size: Lines at a time.

        Raises:
            TypeError: If `lines` is one string, or holds what is no `str`.
            ValueError: If `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} must be at least 1")
        lines = _as_list(lines)
        results = [Translation("", 0.0)] * len(lines)
        if not lines:
            return results
        counts = self._loaded.count_tokens(tf.constant(lines, tf.string)).numpy()
        order = np.argsort(counts, kind="stable")
        order = order[counts[order] > 0]
        longest = self.info.content["max_source_length"] - 1
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            texts, scores = self._translate_batch([lines[i] for i in chosen])
            for i, text, score in zip(chosen, texts, scores, strict=True):
                results[i] = Translation(
                    text=text.decode("utf-8", errors="replace"),
                    score=float(score),
                    is_truncated=bool(counts[i] > longest),
                )
        return results

    def _translate_batch(self, lines: list[str]) -> tuple[Any, Any]:
        result = self._loaded.translate(
            tf.constant(lines, tf.string), tf.constant(self.beam_size)
        )
        return result["translation"].numpy(), result["score"].numpy()


def _as_list(lines: Iterable[str]) -> list[str]:
    """Returns the lines.

    Raises:
        TypeError: If they are one string, or not all are strings.
    """
    if isinstance(lines, str | bytes) or not isinstance(lines, Iterable):
        raise TypeError(f"lines must be a list of str, not {type(lines).__name__}")
    found = list(lines)
    for index, line in enumerate(found):
        if not isinstance(line, str):
            raise TypeError(f"line {index} must be a str, not {type(line).__name__}")
    return [str(line) for line in found]


def _load(path: str) -> Any:
    """Returns the SavedModel in a directory of any name, or at a URL."""
    if "://" in path:
        return tf.saved_model.load(path)
    with literal_path(path) as directory:
        return tf.saved_model.load(directory)
