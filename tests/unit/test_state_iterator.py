"""The position of a native `tf.data` pipeline is part of a checkpoint.

Of one that is exact in TensorFlow: behind a shuffle that draws a new order each epoch a
bare iterator is not, and `ResumableIterator` is what the documentation names for it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

import resumable_tf as rtf

NUM_BATCHES = 25


def _iterator() -> tf.data.Iterator:
    dataset = tf.data.Dataset.range(40).map(lambda i: i * 3).batch(4).prefetch(2)
    return iter(dataset.repeat())


@pytest.mark.parametrize("num_before", [1, 9, 10, 13])
def test_a_plain_iterator_continues_where_it_was_saved(
    tmp_path: Path, num_before: int
) -> None:
    whole = _iterator()
    expected = [next(whole).numpy().tolist() for _ in range(NUM_BATCHES)]
    state = rtf.TrainState(iterator=_iterator())
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.restore_or_initialize(state)
        for step in range(num_before):
            assert next(state.trackables["iterator"]).numpy().tolist() == expected[step]
            state.step += 1
        checkpointer.save(state).result()
    again = rtf.TrainState(iterator=_iterator())
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.restore_or_initialize(again)
    assert again.step == num_before
    rest = [
        next(again.trackables["iterator"]).numpy().tolist()
        for _ in range(NUM_BATCHES - num_before)
    ]
    assert rest == expected[num_before:]
