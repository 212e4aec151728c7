"""Serves an export in a process that can't import this project.

    python serve_alone.py EXPORT TEXT

Prints the translations of TEXT, of nothing and of "open window" as JSON.
"""

from __future__ import annotations

import json
import sys


class Refuse:
    """Keeps this project, and what an export must not need, from being imported."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("resumable_tf", "models", "sentencepiece"):
            raise ImportError(f"{name} must not be needed")


sys.meta_path.insert(0, Refuse())

import tensorflow as tf  # noqa: E402
import tensorflow_text  # noqa: E402, F401  registers the tokenizer's operations

loaded = tf.saved_model.load(sys.argv[1])
texts = tf.constant([sys.argv[2], "", "open window"])
serve = loaded.signatures["serving_default"](text=texts)
beam = loaded.signatures["beam"](text=texts, beam_size=tf.constant(2))
direct = loaded.translate(texts, tf.constant(2))
for found in (beam, direct):
    for name in ("translation", "score"):
        assert (found[name].numpy() == serve[name].numpy()).all(), name
assert serve["score"].dtype == tf.float32
try:
    loaded.translate(texts, tf.constant(0))
except tf.errors.InvalidArgumentError as error:
    assert "beam_size must be at least 1" in str(error)
else:
    raise AssertionError("a beam of 0 was accepted")
none = loaded.translate(tf.constant([], tf.string), tf.constant(4))
assert none["translation"].shape == none["score"].shape == (0,)
print(json.dumps([t.decode() for t in serve["translation"].numpy()]))
