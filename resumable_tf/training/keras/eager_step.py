"""Everything that a step makes on its first call, for a model that runs eagerly.

    is_known = build_by_tracing(call, data.element_spec)

A checkpoint can be restored into what exists only: the variables of late layers, of
optimizers and of compiled metrics are made by the first step, too late. So the step is
traced once, as if the model were compiled, and what comes of it is thrown away: tracing
makes variables, and computes nothing. Where a step can't be traced, since it looks at
values, model and metrics are built by themselves.
"""

from __future__ import annotations

import logging
from typing import Any

import tensorflow as tf

from resumable_tf.errors import StateError
from resumable_tf.state.keras_objects import is_built, is_optimizer
from resumable_tf.training.keras.fit_call import FitCall

_log = logging.getLogger(__name__)

# What tracing raises at code that needs values: TensorFlow's classes derive from these.
_UNTRACEABLE = (
    *(AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError),
    *(ValueError, tf.errors.OpError),
)
_PLAIN = (bool, int, float, str, bytes, type(None))


def build_by_tracing(call: FitCall, element_spec: Any) -> bool:
    """Makes the variables of an eager step; changes no value.

    Args:
        call: The running `fit`.
        element_spec: Types and shapes of a batch.

    Returns:
        Whether the step could be traced, so that nothing can be missing.
    """
    model = call.model
    convert = getattr(model, "_autoconvert_optionals", lambda step: step)
    step = convert(model.train_step)

    before = _Attributes(model)
    # No tf.function: one that fails would leave variables without their first values.
    graph = tf.__internal__.FuncGraph("eager_step")
    try:
        with graph.as_default():
            call.strategy.run(step, args=(_placeholders(element_spec),))
        return True
    except _UNTRACEABLE as error:
        _log.info("the eager step can't be traced: %s", error)
    finally:
        before.put_back()
    try:
        _build_parts(call, _zeros(element_spec))
    except _UNTRACEABLE as error:
        _log.info("the eager model can't be built: %s", error)
    return False


def check_built(model: Any) -> None:
    """Refuses an eager model that would make variables in its first step.

    Args:
        model: Its step could not be traced.

    Raises:
        StateError: If something of it is not built.
    """
    unbuilt = [
        f"model.{name}"
        for name, value in vars(model).items()
        if is_optimizer(value) and not is_built(value)
    ]
    if not model.built:
        unbuilt.append("the model itself")
    metrics = getattr(model, "_compile_metrics", None)
    if metrics is not None and not metrics.built:
        unbuilt.append("its compiled metrics")
    if unbuilt:
        raise StateError(
            f"run_eagerly=True, and {', '.join(unbuilt)} would make variables in the "
            "first step, too late for a checkpoint to be restored into them; the step "
            "can't be traced, since it looks at values. Before fit, call the model on "
            "one batch and optimizer.build(model.trainable_variables) for each "
            "optimizer, or leave run_eagerly=True out"
        )


class _Attributes:
    """Undoes what tracing does to a model besides making variables.

    A step that runs eagerly may count in Python, and keep its tensors in lists.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._before = dict(vars(model))
        self._lengths = {
            name: len(value)
            for name, value in self._before.items()
            if isinstance(value, list)
        }

    def put_back(self) -> None:
        now = vars(self._model)
        for name, value in self._before.items():
            found = now.get(name)
            if isinstance(value, _PLAIN) and isinstance(found, _PLAIN):
                if not name.startswith("_") and name != "built":
                    now[name] = value
            elif name in self._lengths and found is value:
                tail = value[self._lengths[name] :]
                if tail and all(tf.is_tensor(one) for one in tail):
                    del value[self._lengths[name] :]


def _build_parts(call: FitCall, batch: Any) -> None:
    """Builds the model and what was compiled with it."""
    model = call.model
    if call.is_keras_3:
        model._symbolic_build(data_batch=batch)
        return
    x, y, _ = tf.keras.utils.unpack_x_y_sample_weight(batch)
    predicted = model(x, training=False)
    if model.compiled_loss is not None:
        model.compiled_loss.build(predicted)
    if model.compiled_metrics is not None:
        model.compiled_metrics.build(predicted, y)


def _placeholders(element_spec: Any) -> Any:
    specs = tf.nest.flatten(element_spec, expand_composites=True)
    made = [tf.compat.v1.placeholder(spec.dtype, spec.shape) for spec in specs]
    return tf.nest.pack_sequence_as(element_spec, made, expand_composites=True)


def _zeros(element_spec: Any) -> Any:
    """Returns a batch of one row."""

    def make(spec: Any) -> Any:
        return tf.zeros(
            [1 if size is None else size for size in spec.shape], spec.dtype
        )

    return tf.nest.map_structure(make, element_spec)
