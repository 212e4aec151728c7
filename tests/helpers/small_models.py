"""Small Transformers and packed batches, and a probe that other processes run.

python -m helpers.small_models        # prints the probe's results as JSON
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from models.config import TransformerConfig
from models.dropout import DropoutKey, seed_key
from models.transformer import Transformer, build_transformer
from resumable_tf.data.packing import FIELDS, TokenPair, pack

VOCAB_SIZE = 50


def small_config(**changes: Any) -> TransformerConfig:
    """Returns sizes that compute in milliseconds."""
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "model_dim": 32,
        "num_heads": 2,
        "ffn_dim": 48,
    }
    return TransformerConfig(**{**sizes, **changes})


def random_pairs(num_pairs: int, *, seed: int, max_length: int = 7) -> list[TokenPair]:
    """Returns pairs of 1 to `max_length` random ids a side, without eos."""
    generator = np.random.default_rng(seed)

    def ids() -> list[int]:
        length = generator.integers(1, max_length + 1)
        return [int(id_) for id_ in generator.integers(4, VOCAB_SIZE, size=length)]

    return [(ids(), ids()) for _ in range(num_pairs)]


def packed_batch(
    pairs: Sequence[TokenPair], *, source_length: int = 24, target_length: int = 20
) -> dict[str, tf.Tensor]:
    """Returns the pairs packed into as few rows as possible, int32."""
    rows = pack(pairs, source_length=source_length, target_length=target_length)
    return {name: tf.constant(rows[name].astype(np.int32)) for name in FIELDS}


def randomized(model: Transformer, *, seed: int = 5) -> Transformer:
    """Adds noise to all variables, so that no bias or scale is trivial; in place."""
    generator = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        noise = generator.normal(scale=0.1, size=tuple(variable.shape))
        variable.assign_add(noise.astype(np.float32))
    return model


def _digest(values: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def probe() -> dict[str, Any]:
    """Returns what a model is and computes, as JSON values, exact to the bit."""
    keras = tf.keras.layers.Layer.__module__.split(".")[0]
    results: dict[str, Any] = {"keras": keras}
    batch = packed_batch(random_pairs(9, seed=1))
    for norm in ("pre", "post"):
        model = build_transformer(small_config(norm=norm), seed=3)
        initial = [np.asarray(v) for v in model.trainable_variables]
        key = DropoutKey(seed_key("dropout", 1), tf.constant(7, tf.int64), 0)
        with tf.GradientTape() as tape:
            loss = model.loss_sums(batch, key).loss
        gradients = tape.gradient(loss, model.trainable_variables)
        parts = zip(initial, map(tf.convert_to_tensor, gradients), strict=True)
        results[norm] = {
            # Sorted, since each Keras lists the variables in an order of its own.
            "variables": sorted(
                [list(value.shape), _digest(value), _digest(gradient)]
                for value, gradient in parts
            ),
            "logits": _digest(model(batch)),
            "loss": float(loss).hex(),
        }
    return results


if __name__ == "__main__":
    print(json.dumps(probe()))
