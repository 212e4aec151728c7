"""Dropout without state: a pure function of (seed, step, layer, global row).

    key = DropoutKey(seed_key("dropout", 1), step, first_row)
    y_BSD = dropout(x_BSD, rate=0.1, key=key, stream=3)

Nothing is drawn from a generator, so nothing has to be saved, and each row of the
global batch has its mask whatever replica computes it. The random bits are
Philox-4x32 blocks (Salmon et al. 2011) at counter (block, stream and step), so that
a replica makes just the blocks of its own rows.

Shapes: B rows of a replica, S length, D model dim.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

_PHILOX = 1
_VALUES_PER_BLOCK = 16
_MAX_STREAMS = 1 << 16


def seed_key(purpose: str, seed: int) -> int:
    """Returns a 63-bit key for one purpose of a run's seed."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass(frozen=True)
class DropoutKey:
    """What dropout depends on beside the layer.

    Attributes:
        seed_key: `seed_key("dropout", seed)`.
        step: Completed steps, scalar int64 tensor.
        first_row: Index in the global batch of the replica's first row, scalar.
    """

    seed_key: int
    step: Any
    first_row: Any


def dropout(x: tf.Tensor, *, rate: float, key: DropoutKey | None, stream: int) -> Any:
    """Zeroes a share of `x`'s values and scales the others up.

    Args:
        x: Any shape [B, ...]; the values of a row must be a multiple of 16.
        rate: Share to drop; it is rounded to a multiple of 1/256, 255/256 at most,
            and the scale is that of the rounded rate.
        key: None outside training: `x` is returned as it is.
        stream: A number of the place in the model, each place its own.

    Raises:
        ValueError: If a row's values are not a multiple of 16, or `stream` is not
            in 0 to 65535.
    """
    threshold = min(round(rate * 256), 255)
    if key is None or threshold == 0:
        return x
    num_values = 1
    for size in x.shape[1:]:
        num_values *= size
    if num_values % _VALUES_PER_BLOCK:
        raise ValueError(f"a row has {num_values} values, not a multiple of 16")
    if not 0 <= stream < _MAX_STREAMS:
        raise ValueError(f"stream is {stream}; it must be in 0 to {_MAX_STREAMS - 1}")
    blocks_per_row = num_values // _VALUES_PER_BLOCK
    first_block = tf.cast(key.first_row, tf.int64) * blocks_per_row
    high = tf.cast(key.step, tf.int64) * _MAX_STREAMS + stream
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[tf.shape(x)[0], num_values // 4],
        key=tf.constant([key.seed_key], tf.uint64),
        counter=tf.cast(tf.stack([first_block, high]), tf.uint64),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    keep = tf.reshape(tf.bitcast(bits, tf.uint8) >= threshold, tf.shape(x))
    scale = 256 / (256 - threshold)
    return x * (tf.cast(keep, x.dtype) * tf.constant(scale, x.dtype))
