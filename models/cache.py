"""Keys and values kept while decoding, for several hypotheses of each row.

    cache = model.start_cache(memory_BSD, source_segments_BS, width=4)
    logits_BWV, cache = model.decode_step(tokens_BW, position, cache)
    cache = cache.reorder(parents_BW)

Nothing is moved when hypotheses change places: what was computed in a slot stays
there, and `slots` says for each hypothesis which slot holds its past. A hypothesis
meets the keys of all W slots, and those that are not its own are masked. The
encoder's keys are kept once a row, never once a hypothesis.

Shapes: B rows, W hypotheses of a row, S source length, t positions decoded so far,
H heads, K head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from models.layers import forbid


class Cache(NamedTuple):
    """What a decoder needs of the positions before, and of the source.

    Attributes:
        self_keys: Per layer [B, H, t * W, K], position by position.
        self_values: The same.
        slots: int32 [B, W, t], the slot in which the token of a hypothesis at a
            position was decoded.
        memory_keys: Per layer [B, H, S, K].
        memory_values: Per layer [B, H, S, K].
        memory_bias: [B, 1, 1, S].
    """

    self_keys: tuple[tf.Tensor, ...]
    self_values: tuple[tf.Tensor, ...]
    slots: tf.Tensor
    memory_keys: tuple[tf.Tensor, ...]
    memory_values: tuple[tf.Tensor, ...]
    memory_bias: tf.Tensor

    def reorder(self, parents: tf.Tensor) -> Cache:
        """Returns the cache in which hypothesis w goes on from `parents[b, w]`.

        Args:
            parents: int32 [B, W].
        """
        return self._replace(slots=tf.gather(self.slots, parents, batch_dims=1))

    def enter(self, dtype: Any) -> tuple[Cache, tf.Tensor]:
        """Returns the cache with one position more, and what may be seen from it.

        Args:
            dtype: Of the bias.

        Returns:
            The cache, whose keys and values are still to be appended, and the bias
            of self-attention, [B, 1, W, t * W].
        """
        rows, width = tf.shape(self.slots)[0], tf.shape(self.slots)[1]
        own = tf.range(width)
        newest = tf.tile(own[None, :, None], [rows, 1, 1])
        slots = tf.concat([self.slots, newest], axis=2)
        is_other = tf.reshape(slots[..., None] != own, [rows, 1, width, -1])
        return self._replace(slots=slots), forbid(is_other, dtype)


def start_cache(
    memory: Sequence[tuple[tf.Tensor, tf.Tensor]], is_padding: tf.Tensor, width: Any
) -> Cache:
    """Returns a cache of no positions.

    Args:
        memory: Keys and values of the source by layer, each [B, H, S, K].
        is_padding: bool [B, S].
        width: W, int or scalar tensor.
    """
    first = memory[0][0]
    shape = tf.shape(first)
    empty = tf.zeros(tf.stack([shape[0], shape[1], 0, shape[3]]), first.dtype)
    return Cache(
        self_keys=(empty,) * len(memory),
        self_values=(empty,) * len(memory),
        slots=tf.zeros(tf.stack([shape[0], width, 0]), tf.int32),
        memory_keys=tuple(key for key, _ in memory),
        memory_values=tuple(value for _, value in memory),
        memory_bias=forbid(is_padding, first.dtype)[:, None, None, :],
    )
