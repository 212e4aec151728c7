"""The position of a native `tf.data` pipeline is part of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

import resumable_tf as rtf


def _iterator() -> tf.data.Iterator:
    dataset = tf.data.Dataset.range(40).shuffle(40, seed=1).batch(4)
    return iter(dataset.repeat())


def test_a_plain_iterator_continues_where_it_was_saved(tmp_path: Path) -> None:
    expected = [
        batch.numpy().tolist() for batch, _ in zip(_iterator(), range(25), strict=False)
    ]
    state = rtf.TrainState(iterator=_iterator())
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.restore_or_initialize(state)
        for step in range(13):
            assert next(state.trackables["iterator"]).numpy().tolist() == expected[step]
            state.step += 1
        checkpointer.save(state).result()
    again = rtf.TrainState(iterator=_iterator())
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.restore_or_initialize(again)
    assert again.step == 13
    rest = [next(again.trackables["iterator"]).numpy().tolist() for _ in range(12)]
    assert rest == expected[13:]
