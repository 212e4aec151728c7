"""What Keras objects keep where TensorFlow's object graph does not reach.

    for variable in variables_of(model):       # Keras 3's seeds and metrics included
        ...

Works on Keras 3 and on tf_keras alike, by the attributes that both have; Keras
itself is not imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from resumable_tf.errors import StateError
from resumable_tf.state.leaf import is_variable, tensorflow_variable

_RATES = ("rate", "stddev", "dropout", "recurrent_dropout")


def is_optimizer(obj: Any) -> bool:
    """Returns whether `obj` is a Keras optimizer of any generation."""
    return hasattr(obj, "apply_gradients") and hasattr(obj, "variables")


def is_model(obj: Any) -> bool:
    """Returns whether `obj` is a layer, model or module with weights to train."""
    return hasattr(obj, "trainable_variables") and not is_optimizer(obj)


def variables_of(obj: Any) -> list[Any]:
    """Returns an object's variables in its own order, metrics and seeds last.

    Args:
        obj: Anything; objects without variables give an empty list.

    Raises:
        StateError: If a layer draws random numbers that can't be saved.
    """
    found = _own_variables(obj)
    for metric in getattr(obj, "metrics", None) or ():
        found.extend(_own_variables(metric))
    found.extend(_generator_states(obj))
    found.extend(_recurrent_states(obj))
    unique: dict[int, Any] = {}
    for variable in found:
        unique.setdefault(id(variable), variable)
    return list(unique.values())


def members(objects: Iterable[Any]) -> Iterator[Any]:
    """Yields objects, and those in lists and dictionaries in place of these."""
    for obj in objects:
        if isinstance(obj, Mapping):
            yield from members(obj.values())
        elif isinstance(obj, (list, tuple)):
            yield from members(obj)
        else:
            yield obj


def refresh(obj: Any) -> None:
    """Lets layers compute again what they derive from variables that were restored.

    A Normalization layer keeps the tensors that it uses beside its statistics.
    """
    flatten = getattr(obj, "_flatten_layers", None)
    for layer in flatten() if flatten is not None else ():
        if hasattr(layer, "adapt_mean") and hasattr(layer, "finalize_state"):
            layer.finalize_state()


def is_built(optimizer: Any) -> bool:
    """Returns whether a Keras optimizer has made its variables."""
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None and not is_built(inner):
        return False
    return bool(getattr(optimizer, "built", getattr(optimizer, "_built", inner)))


def build_optimizer(optimizer: Any, model: Any) -> None:
    """Creates an optimizer's variables, unless they are there.

    An optimizer that has none yet would be restored to nothing, silently.

    Args:
        optimizer: A Keras optimizer.
        model: The model whose weights it trains; None if there is not exactly one.

    Raises:
        StateError: If the optimizer is not built and can't be built here.
    """
    if is_built(optimizer):
        return
    weights = list(model.trainable_variables) if model is not None else []
    if not weights:
        raise StateError(
            f"the optimizer {type(optimizer).__name__} has no variables yet, and there "
            "is no built model to make them for; call the model on one batch first, "
            "or optimizer.build(variables)"
        )
    with _scope_of(optimizer, weights[0]):
        if hasattr(optimizer, "_create_all_weights"):  # tf_keras.optimizers.legacy
            optimizer._create_all_weights(weights)
        else:
            optimizer.build(weights)


def _scope_of(optimizer: Any, variable: Any) -> AbstractContextManager[Any]:
    """Returns the scope of the strategy that an optimizer and its weights are for."""
    strategy = getattr(optimizer, "_distribution_strategy", None) or getattr(
        tensorflow_variable(variable), "distribute_strategy", None
    )
    # TensorFlow's default strategy stands for none, and can't be entered in another.
    if strategy is None or type(strategy).__name__.startswith("_Default"):
        return contextlib.nullcontext()
    scope: AbstractContextManager[Any] = strategy.scope()
    return scope


def _own_variables(obj: Any) -> list[Any]:
    found = getattr(obj, "variables", ())
    if callable(found) and not isinstance(found, (list, tuple)):
        found = found()
    return list(found)


def _generator_states(obj: Any) -> list[Any]:
    """Returns the states of tf_keras' random generators.

    Raises:
        StateError: If a layer uses TensorFlow's global generator instead.
    """
    flatten = getattr(obj, "_flatten_layers", None)
    states = []
    for layer in flatten() if flatten is not None else ():
        random = getattr(layer, "_random_generator", None)
        kind = getattr(random, "_rng_type", None)
        if kind == "legacy_stateful" and _draws(layer):
            raise StateError(
                f"the layer {layer.name!r} draws its random numbers from a hidden "
                "state that can't be saved; call "
                "tf.keras.backend.experimental.enable_tf_random_generator() before "
                "the model is built"
            )
        generator = getattr(random, "_generator", None)
        if kind == "stateful" and generator is not None:
            states.append(generator.state)
    return states


def _recurrent_states(obj: Any) -> list[Any]:
    """Returns the states of tf_keras' stateful recurrent layers."""
    flatten = getattr(obj, "_flatten_layers", None)
    found: list[Any] = []
    for layer in flatten() if flatten is not None else ():
        if getattr(layer, "stateful", False):
            states = getattr(layer, "states", None) or ()
            found.extend(v for v in tf.nest.flatten(states) if is_variable(v))
    return found


def _draws(layer: Any) -> bool:
    """Returns whether a layer with a generator will use it."""
    rates = [getattr(layer, name) for name in _RATES if hasattr(layer, name)]
    return not rates or any(rates)
