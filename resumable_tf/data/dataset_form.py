"""What a `tf.data` pipeline is made of, so that another one is noticed.

    describe_dataset(dataset)
    # [["_BatchDataset", {"_batch_size": 32}], ["_ShuffleDataset", {"_seed": 7, ...}]]

TensorFlow restores an iterator's state into a pipeline with another seed, buffer or
batch size without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

_MOST_VALUES = 16
# Behind these a shuffle draws again while one iterator is read, or is read once only.
_NESTING = ("Repeat", "FlatMap", "Interleave", "Concatenate", "Cache")


def describe_dataset(dataset: Any) -> list[Any]:
    """Returns the operations of a pipeline with their numbers, last one first.

    Args:
        dataset: A `tf.data.Dataset`.
    """
    described = []
    queue = [dataset]
    while queue:
        current = queue.pop(0)
        described.append([type(current).__name__, _numbers(current)])
        queue.extend(current._inputs())
    return described


def draws_underway(pipeline: list[Any]) -> bool:
    """Returns whether a shuffle may be begun anew while one iterator is read.

    Args:
        pipeline: What `describe_dataset` returned.
    """
    return any(word in name for name, _ in pipeline for word in _NESTING)


def _numbers(dataset: Any) -> dict[str, Any]:
    found = {}
    for name, value in sorted(vars(dataset).items()):
        if tf.is_tensor(value) and value.dtype not in (tf.variant, tf.resource):
            value = value.numpy()
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf":
            if value.size <= _MOST_VALUES:
                found[name] = value.tolist()
        elif isinstance(value, (bool, int, float)):
            found[name] = value
    return found
