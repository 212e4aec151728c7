"""Pipelines for the tests of positions: single ones, and compositions by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import tensorflow as tf

import resumable_tf as rtf

Step = Callable[[Any, int], Any]

# Each takes a dataset of int64 scalars, and a seed, to another one.
STEPS: dict[str, Step] = {
    "shuffle": lambda d, s: d.shuffle(5, seed=s),
    "shuffle all": lambda d, s: d.shuffle(100, seed=s),
    "shuffle once": lambda d, s: d.shuffle(4, seed=s, reshuffle_each_iteration=False),
    "repeat": lambda d, s: d.repeat(2),
    "take": lambda d, s: d.take(9),
    "skip": lambda d, s: d.skip(2),
    "shard": lambda d, s: d.shard(2, s % 2),
    "filter": lambda d, s: d.filter(lambda i: i % 3 != 1),
    "map": lambda d, s: d.map(lambda i: i * 2),
    "map in parallel": lambda d, s: d.map(lambda i: i + 1, num_parallel_calls=2),
    "prefetch": lambda d, s: d.prefetch(1),
    "prefetch all": lambda d, s: d.prefetch(100),
    "concatenate": lambda d, s: d.concatenate(
        tf.data.Dataset.range(50, 57).shuffle(7, seed=s)
    ),
    "zip": lambda d, s: tf.data.Dataset.zip(
        (d, tf.data.Dataset.range(20).shuffle(9, seed=s))
    ).map(lambda a, b: a * 100 + b),
    "batch and unbatch": lambda d, s: d.batch(3).unbatch(),
    "flat_map": lambda d, s: d.flat_map(
        lambda i: tf.data.Dataset.range(i, i + 2).shuffle(2, seed=s)
    ),
    "interleave": lambda d, s: d.interleave(
        lambda i: tf.data.Dataset.range(i, i + 3), cycle_length=2, block_length=2
    ),
    "interleave in parallel": lambda d, s: d.interleave(
        lambda i: tf.data.Dataset.range(i, i + 3),
        cycle_length=3,
        num_parallel_calls=2,
    ),
    "scan": lambda d, s: d.scan(
        tf.constant(0, tf.int64), lambda total, i: (total + i, total)
    ),
    "window": lambda d, s: d.window(3).flat_map(lambda w: w),
    "random": lambda d, s: d.map(
        lambda i: i + tf.random.uniform([], maxval=1000, dtype=tf.int64, seed=s)
    ),
    "unique": lambda d, s: d.unique(),
    "take_while": lambda d, s: d.take_while(lambda i: i < 10_000),
    "sampled": lambda d, s: tf.data.Dataset.sample_from_datasets(
        [d, tf.data.Dataset.range(90, 96)], [0.5, 0.5], seed=s
    ),
    "chosen": lambda d, s: tf.data.Dataset.choose_from_datasets(
        [d, tf.data.Dataset.range(90, 96).shuffle(6, seed=s)],
        tf.data.Dataset.range(2).repeat(5),
        stop_on_empty_dataset=False,
    ),
    "cache": lambda d, s: d.cache(),
    "rebatched": lambda d, s: d.batch(2).rebatch(3).unbatch(),
    "grouped": lambda d, s: d.group_by_window(
        lambda i: i % 2, lambda key, group: group.batch(2), window_size=2
    ).unbatch(),
    "ignore_errors": lambda d, s: d.ignore_errors(),
    "padded": lambda d, s: d.padded_batch(2).unbatch(),
    "batch in parallel": lambda d, s: d.batch(3, num_parallel_calls=2).flat_map(
        tf.data.Dataset.from_tensor_slices
    ),
    "options": lambda d, s: d.with_options(one_thread()),
    "ragged": lambda d, s: (
        d.map(lambda i: tf.range(i % 3))
        .ragged_batch(2)
        .map(lambda rows: tf.reduce_sum(rows.to_tensor()) + rows.nrows())
    ),
    "bucketed": lambda d, s: d.bucket_by_sequence_length(
        lambda i: tf.cast(i % 5, tf.int32), [2, 4], [2, 2, 2]
    ).unbatch(),
}


def one_thread() -> Any:
    """Returns options of a pipeline that change nothing in its elements."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.deterministic = True
    return options


def composed(names: tuple[str, ...]) -> Any:
    """Returns a new dataset with these steps, in batches."""
    tf.keras.utils.set_random_seed(3)
    dataset = tf.data.Dataset.range(12)
    for place, name in enumerate(names):
        dataset = STEPS[name](dataset, 7 + place)
    return dataset.batch(4)


def drawn(seed: int, count: int) -> list[tuple[str, ...]]:
    """Returns compositions of two to four steps."""
    chance = random.Random(seed)
    return [
        tuple(chance.choices(sorted(STEPS), k=chance.randint(2, 4)))
        for _ in range(count)
    ]


def plain(dataset: Any, num_epochs: int) -> list[Any]:
    """Returns what a plain loop over the dataset gives."""
    return [values(batch) for _ in range(num_epochs) for batch in dataset]


def values(batch: Any) -> Any:
    """Returns a batch as something that can be compared."""
    return tf.nest.map_structure(lambda t: t.numpy().tolist(), batch)


def wrong_positions(make: Callable[[], Any], *, num_epochs: int = 3) -> list[int]:
    """Returns the positions from which other batches follow, -1 if from the start.

    Raises:
        StateError: If the pipeline is refused.
    """
    expected = plain(make(), num_epochs)
    batches = rtf.ResumableIterator(make())
    positions, given = [batches.serialize()], []
    for _ in expected:
        given.append(values(next(batches)))
        positions.append(batches.serialize())
    if given != expected:
        return [-1]
    wrong = []
    for done in range(len(expected)):
        resumed = rtf.ResumableIterator(make())
        resumed.deserialize(positions[done])
        rest = [values(next(resumed)) for _ in expected[done:]]
        if rest != expected[done:]:
            wrong.append(done)
    return wrong
