"""Hashes that are equal for equal values, in any process.

    digest(array)                                   # "3f09c2..." of its bytes
    token(np.random.default_rng(1), covered=...)    # ("random", "8a31...")

Objects without a known value have no token: they are followed by their attributes.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.auditing.log import ARRAY, RANDOM, VALUE, VARIABLE
from resumable_tf.state.leaf import (
    is_variable,
    replica_components,
    tensorflow_variable,
)
from resumable_tf.state.python_values import encode

Token = tuple[str, str]
Covered = Callable[[Any], bool]

_MAX_BYTES, _MAX_ITEMS, _MAX_DEPTH = 4 << 20, 1000, 3
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_ORDER = (VALUE, ARRAY, VARIABLE, RANDOM)


def is_a(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """Returns whether a value is of a class, whatever it says that it is.

    Mocks and proxies answer `isinstance` and every attribute; they have no value.

    Args:
        value: Anything.
        kinds: Classes.
    """
    return issubclass(type(value), kinds)


def digest(*parts: Any) -> str:
    """Returns a hash of arrays, tensors, bytes and texts."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, str):
            found.update(part.encode())
        elif isinstance(part, bytes):
            found.update(part)
        else:
            array = np.asarray(part)
            found.update(f"{array.dtype}{array.shape}".encode())
            is_object = array.dtype.hasobject
            found.update(repr(array.tolist()).encode() if is_object else _bytes(array))
    return found.hexdigest()


def token(value: Any, *, covered: Covered, depth: int = 0) -> Token | None:
    """Returns kind and hash of a value, None if it has none of its own.

    Args:
        value: Anything.
        covered: Tells whether a variable is part of the training state; such have no
            token.
        depth: How deep in containers it was found.
    """
    if type(value) in _PLAIN or is_a(value, itertools.count):
        return VALUE, digest(type(value).__name__, repr(value)[:_MAX_BYTES])
    if is_a(value, np.generic):
        return VALUE, digest(value)
    if is_a(value, np.ndarray):
        return (ARRAY, digest(value)) if value.nbytes <= _MAX_BYTES else None
    generator = _generator_state(value)
    if generator is not None:
        return RANDOM, digest(generator)
    if is_a(value, (list, tuple, set, frozenset, dict, collections.deque)):
        return _container(value, covered, depth)
    if is_a(value, type):
        return None
    if is_a(value, tf.Tensor) and not is_variable(value):
        return _tensor(value)
    return _variables(value, covered)


def variable_digest(variable: Any) -> str | None:
    """Returns the hash of a variable on all its replicas, None if it has no value."""
    parts = replica_components(variable)
    try:
        if not all(bool(part.is_initialized()) for part in parts):
            return None
        return digest(*(part.numpy() for part in parts))
    except (AttributeError, NotImplementedError, tf.errors.OpError):
        return None  # A variable of a graph, or one that was deleted.


def _bytes(array: np.ndarray[Any, Any]) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def _generator_state(value: Any) -> bytes | None:
    if is_a(value, random.Random):
        return repr(value.getstate()).encode()
    if is_a(value, np.random.Generator):
        return encode(value.bit_generator.state)
    if is_a(value, np.random.RandomState):
        return encode(value.get_state(legacy=False))
    return None


def _tensor(value: Any) -> Token | None:
    """Returns the token of an eager tensor; symbolic ones have no value."""
    if not hasattr(value, "numpy") or value.dtype in (tf.variant, tf.resource):
        return None
    array = value.numpy()
    return (ARRAY, digest(array)) if np.asarray(array).nbytes <= _MAX_BYTES else None


def _container(value: Any, covered: Covered, depth: int) -> Token | None:
    """Returns the token of what a container holds, as far as that has tokens."""
    if depth >= _MAX_DEPTH or len(value) > _MAX_ITEMS:
        return VALUE, digest(type(value).__name__, str(len(value)))
    items: Iterable[Any] = value
    if isinstance(value, dict):
        items = [part for pair in list(value.items()) for part in pair]
    found = [token(item, covered=covered, depth=depth + 1) for item in items]
    known = [one for one in found if one is not None]
    if not known and found:
        return None
    if isinstance(value, (set, frozenset)):
        known.sort()
    kind = max((kind for kind, _ in known), key=_ORDER.index, default=VALUE)
    return kind, digest(type(value).__name__, *(text for _, text in known))


def _variables(value: Any, covered: Covered) -> Token | None:
    """Returns the token of a variable or a generator that the state does not hold."""
    kind = RANDOM if is_generator(value) else VARIABLE
    texts = [variable_digest(v) for v in variables_in(value) if not covered(v)]
    known = [text for text in texts if text is not None]
    return (kind, digest(*known)) if known else None


def variables_in(value: Any, *, depth: int = 0) -> list[Any]:
    """Returns the TensorFlow variables that a value is, or is made of.

    Args:
        value: A variable, a random generator, or a container of these; all else has
            none.
        depth: How deep in containers it was found.
    """
    if is_a(value, dict):
        value = list(value.values())
    if is_a(value, (list, tuple)):
        if depth >= _MAX_DEPTH or len(value) > _MAX_ITEMS:
            return []
        return [v for item in value for v in variables_in(item, depth=depth + 1)]
    if is_generator(value):
        value = value.state
    return [tensorflow_variable(value)] if is_variable(value) else []


def is_generator(value: Any) -> bool:
    """Returns whether an object of TensorFlow or Keras draws random numbers."""
    is_of_keras = type(value).__name__ == "SeedGenerator" and type(
        value
    ).__module__.startswith(("keras.", "tf_keras."))
    return is_of_keras or is_a(value, tf.random.Generator)
