"""The random generators that belong to everybody in the process.

    state = global_random()         # Python, NumPy, TensorFlow, Keras
    set_global_random(state)        # in the next process

Python's `random` and `np.random`; what `tf.random.*` draws the seeds of its operations
from; `tf.random.get_global_generator()`; and what `keras.random` and the initializers
of Keras and tf_keras draw from without a seed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.errors import StateError
from resumable_tf.state._tensorflow import (
    eager_seed,
    forget_keras_seed_generator,
    global_generator,
    keras_seed_generator,
    make_keras_seed_generator,
    set_eager_seed,
    set_tf_keras_generator,
    tf_keras_generator,
)
from resumable_tf.state.leaf import replica_components, tensorflow_variable
from resumable_tf.state.python_state import damaged, decode_part
from resumable_tf.state.python_values import encode
from resumable_tf.state.random_states import LEGACY, PYTHON, check
from resumable_tf.state.value_kinds import Generator, MalformedValue

_ALGORITHMS = (1, 2, 3)
"""Philox, ThreeFry and the device's own choice, as TensorFlow numbers them."""


class GlobalRandom(tf.train.experimental.PythonState):  # type: ignore[misc]
    """These generators as a part of a checkpoint."""

    def __init__(self) -> None:
        """Has nothing to put back yet."""
        super().__init__()
        self._restored: dict[str, Any] | None = None

    def serialize(self) -> bytes:
        """Returns their states as bytes; TensorFlow asks while saving."""
        return encode(global_random())

    def deserialize(self, string_value: bytes) -> None:
        """Takes the states; `put_back` uses them.

        Raises:
            CheckpointCorruptError: If the bytes are no such states.
        """
        state = decode_part(string_value, name="global_random", marks=False)
        try:
            _check(state)
        except MalformedValue as error:
            raise damaged("global_random", error) from error
        self._restored = state

    def fingerprint(self) -> bytes:
        """Returns nothing: an audit looks at each generator by its name."""
        return b""

    def put_back(self) -> None:
        """Puts the generators back, once all else is: that may draw from them."""
        restored, self._restored = self._restored, None
        if restored is not None:
            set_global_random(restored)


def global_random() -> dict[str, Any]:
    """Returns the states of all of them, storable."""
    seed, of_operations = eager_seed()
    keras = keras_seed_generator()
    tf_keras = tf_keras_generator()
    return {
        "python": _packed(random.getstate()),
        "numpy": np.random.get_state(legacy=False),
        "tensorflow": {
            "seed": seed,
            "operations": None if of_operations is None else _state_of(of_operations),
            "generator": _generator_state(global_generator()),
        },
        "keras": None if keras is None else _values(keras.state),
        "tf_keras": None if tf_keras is None else _state_of(tf_keras),
    }


def set_global_random(state: Mapping[str, Any]) -> None:
    """Puts all of them back.

    Args:
        state: What `global_random` returned.

    Raises:
        MalformedValue: If it is anything else. Nothing is changed then.
        StateError: If one is on another number of replicas than it was.
    """
    _check(state)
    if state["keras"] is not None:
        _assign(make_keras_seed_generator().state, state["keras"])
    elif keras_seed_generator() is not None:
        forget_keras_seed_generator()
    if state["tf_keras"] is not None:
        set_tf_keras_generator(_unpacked(state["tf_keras"]))
    of_tensorflow = state["tensorflow"]
    if of_tensorflow["generator"] is not None:
        _set_generator(of_tensorflow["generator"])
    # The others last: making one of those above draws from them.
    operations = of_tensorflow["operations"]
    set_eager_seed(
        of_tensorflow["seed"], None if operations is None else _unpacked(operations)
    )
    random.setstate(_unpacked(state["python"]))
    np.random.set_state(state["numpy"])


def global_variables() -> list[Any]:
    """Returns the variables among what `global_random` saves."""
    found = []
    if keras_seed_generator() is not None:
        found.append(keras_seed_generator().state)
    if global_generator() is not None:
        found.append(global_generator().state)
    return found


def _state_of(generator: random.Random) -> dict[str, Any]:
    return _packed(generator.getstate())


def _packed(state: tuple[Any, ...]) -> dict[str, Any]:
    """Returns a state of Python's generators with its words as one array."""
    version, words, gauss = state
    return {
        "version": version,
        "words": np.array(words, np.uint32),
        "gauss": gauss,
    }


def _unpacked(state: Mapping[str, Any]) -> tuple[Any, ...]:
    return state["version"], tuple(map(int, state["words"])), state["gauss"]


def _check(state: Any) -> None:
    """Refuses what `global_random` does not return.

    Raises:
        MalformedValue: If it is such.
    """
    names = {"python", "numpy", "tensorflow", "keras", "tf_keras"}
    _check_keys(state, names)
    _check_python(state["python"])
    check(Generator(LEGACY, state["numpy"]))
    of_tensorflow = _check_keys(
        state["tensorflow"], {"seed", "operations", "generator"}
    )
    if type(of_tensorflow["seed"]) not in (int, type(None)):
        raise MalformedValue("TensorFlow's global seed is no integer")
    for part in (of_tensorflow["operations"], state["tf_keras"]):
        if part is not None:
            _check_python(part)
    if state["keras"] is not None:
        _check_words(state["keras"])
    if of_tensorflow["generator"] is not None:
        generator = _check_keys(of_tensorflow["generator"], {"algorithm", "values"})
        if generator["algorithm"] not in _ALGORITHMS:
            raise MalformedValue("TensorFlow's generator is of an unknown algorithm")
        _check_words(generator["values"])


def _check_keys(state: Any, names: set[str]) -> dict[str, Any]:
    if type(state) is not dict or state.keys() != names:
        raise MalformedValue("it is no state of the global random generators")
    return state


def _check_python(state: Any) -> None:
    packed = _check_keys(state, {"version", "words", "gauss"})
    words = packed["words"]
    if type(words) is not np.ndarray or words.dtype != np.uint32 or words.ndim != 1:
        raise MalformedValue("the words of a generator are no such array")
    check(Generator(PYTHON, _unpacked(packed)))


def _check_words(values: Any) -> None:
    """Refuses what is no list of integer vectors, one of each replica."""
    is_good = type(values) is list and values
    if not is_good or any(
        type(item) is not np.ndarray or item.dtype.kind not in "iu" or item.ndim != 1
        for item in values
    ):
        raise MalformedValue("the state of a generator is no vector of integers")


def _values(variable: Any) -> list[Any]:
    return [part.numpy() for part in replica_components(tensorflow_variable(variable))]


def _generator_state(generator: Any) -> dict[str, Any] | None:
    if generator is None:
        return None
    return {
        "algorithm": int(generator.algorithm),
        "values": _values(generator.state),
    }


def _set_generator(saved: Mapping[str, Any]) -> None:
    if global_generator() is None:
        # One made by TensorFlow itself is refused under operation determinism.
        made = tf.random.Generator.from_state(saved["values"][0], saved["algorithm"])
        tf.random.set_global_generator(made)
    _assign(global_generator().state, saved["values"])


def _assign(variable: Any, values: list[Any]) -> None:
    parts = replica_components(tensorflow_variable(variable))
    if len(parts) != len(values):
        raise StateError(
            f"a global random generator was saved on {len(values)} replicas and is on "
            f"{len(parts)} now; make it under the same strategy before the restore "
            "(tf.random.set_global_generator), or start a new run directory"
        )
    for part, value in zip(parts, values, strict=True):
        part.assign(value)
