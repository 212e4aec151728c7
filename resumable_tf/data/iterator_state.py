"""The position of a `tf.data` iterator, as TensorFlow's own iterator state.

    position = read_iterator(iterator)      # strings; a few KB, or a shuffle buffer
    write_iterator(iterator, position)      # in place, into one of an equal dataset
    num_shuffles(position) >= expected      # is it safe to resume from?

A shuffle that reshuffles draws a seed for each new iterator, and its state holds how
many it has drawn. When an operation behind the shuffle has reached the end of its
input, it lets go of the shuffle, and TensorFlow's state lacks the count: a run
resumed from it goes on with other seeds in later epochs, silently. So the count of a
state is compared with that of the epoch's first batch.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from resumable_tf.errors import StateError

_SHUFFLE_MARK = b"epoch_num_random_samples"
_FAIL, _IGNORE = 2, 1

Position = list[bytes]


def read_iterator(iterator: Any, *, ignores_stateful: bool = False) -> Position:
    """Returns the state of an iterator as it is now.

    Args:
        iterator: What `iter(dataset)` gave.
        ignores_stateful: Whether to leave the state of random operations inside the
            pipeline out, where they are known not to be called again.

    Raises:
        StateError: If the pipeline has operations without a state that can be saved
            (Python code, unseeded random operations).
    """
    policy = _IGNORE if ignores_stateful else _FAIL
    try:
        variants = tf.raw_ops.SerializeIterator(
            resource_handle=iterator._iterator_resource, external_state_policy=policy
        )
    except (tf.errors.FailedPreconditionError, tf.errors.UnimplementedError) as error:
        raise StateError(
            "the position of this tf.data pipeline can't be saved, since a part of "
            "it keeps its state out of TensorFlow's reach (tf.py_function, "
            "from_generator, tf.random.* in a map). Use tf.random.stateless_* with the "
            "element's index, or a PyDataset; TensorFlow says: "
            f"{error.message.splitlines()[0]}"
        ) from error
    strings = tf.map_fn(tf.io.serialize_tensor, variants, fn_output_signature=tf.string)
    return [bytes(item) for item in strings.numpy()]


def write_iterator(iterator: Any, position: Position) -> None:
    """Moves an iterator to a position.

    Args:
        iterator: One of an equal dataset.
        position: What `read_iterator` returned, perhaps in another process.
    """
    variants = tf.map_fn(
        lambda item: tf.io.parse_tensor(item, tf.variant),
        tf.constant(position, tf.string),
        fn_output_signature=tf.variant,
    )
    tf.raw_ops.DeserializeIterator(
        resource_handle=iterator._iterator_resource, serialized=variants
    )


def num_shuffles(position: Position) -> int:
    """Returns how many reshuffling shuffles have left their count in a state."""
    return sum(item.count(_SHUFFLE_MARK) for item in position)


def size_bytes(position: Position) -> int:
    """Returns the length of a position in a checkpoint."""
    return sum(map(len, position))
