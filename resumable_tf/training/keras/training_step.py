"""The compiled step of `fit`: traced before training, and cut for replicas.

    concrete = trace_step(call, data.element_spec)      # builds all that the step uses
    slice_for_replicas(call)                            # a global batch in, parts out

Tracing makes every variable that a step makes on its first call: optimizers of a
custom `train_step`, metrics, layers that are built late. A checkpoint can then be
restored into them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from resumable_tf.errors import StateError
from resumable_tf.training.keras.fit_call import FitCall

_ORIGINAL = "_resumable_original"


def trace_step(call: FitCall, element_spec: Any) -> Any | None:
    """Returns the traced step of a `fit`, None where the model runs eagerly.

    Args:
        call: The running `fit`.
        element_spec: Types and shapes of a batch.
    """
    model = call.model
    if model.run_eagerly or tf.config.functions_run_eagerly():
        return None
    iterator_spec = tf.data.IteratorSpec(element_spec)
    return _compiled(model, call.is_keras_3).get_concrete_function(iterator_spec)


def _compiled(model: Any, is_keras_3: bool) -> Any:
    """Returns the function that `fit` calls with an iterator, as TensorFlow has it.

    Raises:
        StateError: If this version of Keras hides it.
    """
    if is_keras_3:
        inside = inspect.getclosurevars(model.train_function).nonlocals
        found = inside.get("multi_step_on_iterator")
    else:
        found = getattr(model, "train_tf_function", None)
    if not hasattr(found, "get_concrete_function"):
        raise StateError(
            "the compiled step of model.fit was not found; this version of Keras "
            "keeps it elsewhere. Keras 3 to 3.15 and tf_keras 2.19 to 2.21 are known"
        )
    return found


def slice_for_replicas(call: FitCall) -> Callable[[], None]:
    """Makes each replica take its part of a global batch by itself.

    A distributed dataset's position can't be saved; the host's plain one can.

    Args:
        call: The running `fit`, under a strategy with replicas in one process.

    Returns:
        What gives the model its own step back, when the fit is over.

    Raises:
        StateError: If several steps are to run in one call.
    """
    if call.steps_per_execution > 1 and call.strategy.num_replicas_in_sync > 1:
        raise StateError(
            f"steps_per_execution={call.steps_per_execution} with "
            f"{call.strategy.num_replicas_in_sync} replicas: Keras itself fails there "
            "on CPUs (\"'NoneType' object is not iterable\"). Use steps_per_execution=1"
        )
    model = call.model
    # An exception may have ended an earlier fit before this was undone.
    original = getattr(model.train_step, _ORIGINAL, model.train_step)

    def train_step(data: Any) -> Any:
        context = tf.distribute.get_replica_context()
        return original(_part_of(data, context))

    if call.is_keras_3:
        model.train_function = model._make_function(train_step)
    else:
        # tf_keras looks it up whenever it traces, so it has to stay for the whole fit.
        setattr(train_step, _ORIGINAL, original)
        model.train_step = train_step
        model.train_function = model.make_train_function(force=True)

    def undo() -> None:
        if not call.is_keras_3:
            del model.train_step
        model.train_function = None  # Keras makes it anew.

    return undo


def _part_of(data: Any, context: Any) -> Any:
    """Returns the rows of a global batch that belong to a replica, in their order."""
    index, count = context.replica_id_in_sync_group, context.num_replicas_in_sync

    def cut(tensor: Any) -> Any:
        num_rows = tensor.shape[0]
        if num_rows is None or num_rows % count:
            return _unequal_part(tensor, index, count)
        # Not `tensor[first:last]`: where the index is a tensor, as on a TPU, that is of
        # unknown length.
        per_replica, rest = num_rows // count, tensor.shape[1:]
        begin = [index * per_replica, *[0] * len(rest)]
        sizes = [-1 if size is None else size for size in rest]
        return tf.slice(tensor, begin, [per_replica, *sizes])

    return tf.nest.map_structure(cut, data)


def _unequal_part(tensor: Any, index: Any, count: int) -> Any:
    size = tf.shape(tensor)[0]
    per_replica = -(-size // count)
    first = tf.minimum(index * per_replica, size)
    last = tf.minimum(first + per_replica, size)
    check = tf.debugging.assert_less(
        (count - 1) * per_replica,
        size,
        message="a batch leaves a replica without rows; use drop_remainder=True, "
        "or a batch size that the number of rows is a multiple of",
    )
    with tf.control_dependencies([check] if check is not None else []):
        part = tensor[first:last]
    part.set_shape([None, *tensor.shape[1:]])
    return part
