"""How many seeds the shuffles of a pipeline have drawn.

    counts = SeedCounts(shuffles)           # `_ShuffleDataset` objects
    before = counts.read()                  # [4, 4]: two iterators were made
    counts.write(before)                    # as if none had been made since

A shuffle that reshuffles owns a generator of seeds, and each new iterator over it draws
two. All iterators of one dataset share the generator, so one that is never read can
tell the count, and set it, at any time; TensorFlow itself has no way to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import dataset_pb2

from resumable_tf.data.iterator_state import (
    entries,
    read_iterator,
    state_of,
    write_iterator,
)
from resumable_tf.errors import StateError

_COUNT = "epoch_num_random_samples"
_SEPARATOR = "@@"
_DRAWN_BY_AN_ITERATOR = 2


class SeedCounts:
    """Reads and sets the generators' counts, without drawing from them."""

    def __init__(self, shuffles: Sequence[Any]) -> None:
        """Makes an iterator of each shuffle and takes its draws back.

        Args:
            shuffles: Datasets; what one reads from comes after it.
        """
        self._keepers: list[Any] = []
        counts: list[int] = []
        for shuffle in reversed(shuffles):
            self._keepers.insert(0, iter(shuffle))
            drawn = self.read()[0] - _DRAWN_BY_AN_ITERATOR
            counts.insert(0, drawn)
            self.write(counts)

    def read(self) -> list[int]:
        """Returns the count of each shuffle."""
        return [_count(keeper) for keeper in self._keepers]

    def write(self, counts: Sequence[int]) -> None:
        """Sets the count of each shuffle.

        Args:
            counts: What `read` returned, perhaps in another process.
        """
        # In their order: the state of one holds counts of those that it reads from.
        for keeper, count in zip(self._keepers, counts, strict=True):
            parts = list(entries(read_iterator(keeper, ignores_stateful=True)))
            part, keys = _own(parts)
            values = _values(part)
            values[keys.index(_COUNT)] = np.int64(count)
            del part.tensors[:]
            for value in values:
                part.tensors.add().CopyFrom(tf.make_tensor_proto(value))
            write_iterator(keeper, state_of(parts))


def _count(keeper: Any) -> int:
    part, keys = _own(list(entries(read_iterator(keeper, ignores_stateful=True))))
    return int(_values(part)[keys.index(_COUNT)])


def _own(parts: list[Any]) -> tuple[Any, list[str]]:
    """Returns the part of the shuffle itself, which is the outermost, and its keys.

    Raises:
        StateError: If this version of TensorFlow names it otherwise.
    """
    found = []
    for part in parts:
        name, *keys = part.metadata.decode("utf-8", "replace").split(_SEPARATOR)
        if _COUNT in keys:
            found.append((len(name), part, keys))
    if not found:
        raise StateError(
            f"TensorFlow {tf.__version__} keeps the seeds of shuffle() elsewhere than "
            "2.19 to 2.21 do; use shuffle(..., reshuffle_each_iteration=False)"
        )
    _, part, keys = min(found, key=lambda item: item[0])
    return part, keys


def _values(part: Any) -> list[Any]:
    """Returns the values of one part of a state."""
    inner = part.tensors[0].variant_val if len(part.tensors) == 1 else []
    if not inner:
        return [tf.make_ndarray(tensor) for tensor in part.tensors]
    packed = dataset_pb2.CompressedElement.FromString(inner[0].metadata)
    types = [tf.as_dtype(item.dtype) for item in packed.component_metadata]
    found = tf.raw_ops.UncompressElement(
        compressed=tf.io.parse_tensor(part.tensors[0].SerializeToString(), tf.variant),
        output_types=types,
        output_shapes=[[]] * len(types),
    )
    return [value.numpy() for value in found]
