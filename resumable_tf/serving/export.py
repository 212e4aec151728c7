"""Writes a trained model as a SavedModel that translates text.

    info = export_translator(model, tokenizer_model, "runs/demo/export", beam_size=4)
    info.path                                   # "runs/demo/export/1"

It needs nothing of this project to be used:

    import tensorflow as tf
    import tensorflow_text                      # registers the tokenizer's operations

    translator = tf.saved_model.load("runs/demo/export/1")
    result = translator.signatures["serving_default"](text=tf.constant(["Hello"]))
    result["translation"], result["score"]      # string [N], float32 [N]

`signatures["beam"]` takes `beam_size`, an int32 scalar, as well, and
`translator.translate(text, beam_size)` is the same. All texts of a call are one
batch; 32 to 128 of similar length are good. Empty texts give empty translations. Of
a text longer than `max_source_length` tokens only the beginning is translated;
`translator.count_tokens(text)` tells. The score is the log-probability over the
length penalty.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from typing import Any

import tensorflow as tf

from resumable_tf.serving.export_directory import (
    FORMAT_VERSION,
    INFO_FILE,
    ExportInfo,
    file_sizes,
    find_export,
    new_version,
)
from resumable_tf.serving.servable import Servable, ServableSettings
from resumable_tf.storage import PathLike

_PACKAGES = ("tensorflow", "tensorflow-text", "keras", "resumable-tf")


def export_translator(
    model: Any,
    tokenizer_model: bytes,
    directory: PathLike,
    *,
    beam_size: int = 4,
    alpha: float = 0.6,
    max_source_length: int = 256,
    source: Mapping[str, Any] | None = None,
) -> ExportInfo:
    """Writes the next version below `directory`, as a whole or not at all.

    Args:
        model: A trained `models.Transformer`, or what has the same methods.
        tokenizer_model: Bytes of the SentencePiece model that it was trained with.
        directory: Of all versions; local or a URL.
        beam_size: Hypotheses of each text in `serving_default`.
        alpha: Strength of the length penalty.
        max_source_length: Tokens of a source, eos included; longer ones are cut.
        source: What the model is: the checkpoint it came from, as JSON values.

    Returns:
        The new version.

    Raises:
        UsageError: If a setting can't work.
    """
    settings = ServableSettings(beam_size, alpha, max_source_length)
    servable = Servable(model, tokenizer_model, settings=settings)
    with new_version(directory) as publication:
        tf.saved_model.save(
            servable,
            publication.work,
            signatures=servable.signatures(),
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        content = {
            "format_version": FORMAT_VERSION,
            **asdict(settings),
            "tokenizer": hashlib.sha256(tokenizer_model).hexdigest(),
            "num_parameters": sum(
                weight.shape.num_elements() for weight in servable.weights
            ),
            "source": dict(source or {}),
            "versions": _versions(),
            "files": file_sizes(publication.work),
        }
        with open(os.path.join(publication.work, INFO_FILE), "w") as file:
            json.dump(content, file, indent=2, sort_keys=True)
            file.write("\n")
    return find_export(publication.path)


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
