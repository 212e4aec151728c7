"""Variables in lists, dictionaries and plain objects of a model are saved too."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import resumable_tf as rtf

keras = tf.keras


class Plain:
    """An object of the user's with nothing of TensorFlow in its class."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.itself = self


class Slotted:
    __slots__ = ("value",)


def model(**attributes: Any) -> Any:
    found = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, name="inside"), keras.layers.ReLU()]
    )
    for name, value in attributes.items():
        setattr(found, name, value)
    return found


def variable() -> Any:
    return tf.Variable(float(random.randrange(9999)), trainable=False)


def in_a_list() -> Any:
    held = [variable(), variable()]
    return model(sums=held), lambda: [v.assign_add(1.0) for v in held]


def in_a_private_list() -> Any:
    held = [variable(), variable()]
    return model(_sums=held), lambda: [v.assign_add(1.0) for v in held]


def in_nested_containers() -> Any:
    one, two = variable(), variable()
    held = {"a": ({"b": [one]}, 3), "c": (two,)}
    return model(sums=held), lambda: [one.assign_add(1.0), two.assign_add(2.0)]


def in_a_plain_object() -> Any:
    held = variable()
    return model(helper=Plain([Plain(held)])), lambda: [held.assign_add(1.0)]


def of_a_layer() -> Any:
    held = variable()
    found = model()
    found.layers[0].sums = {"kernel": [held]}
    return found, lambda: [held.assign_add(1.0)]


def generators() -> Any:
    one = tf.random.Generator.from_seed(random.randrange(9999))
    two = tf.random.Generator.from_seed(random.randrange(9999))
    found = model(noise=[one], more={"a": Plain(two)})
    return found, lambda: [one.normal([2]), two.normal([2])]


def metrics_in_a_dictionary() -> Any:
    mean = keras.metrics.Mean()

    def step() -> Any:
        mean.update_state(random.random())
        return [mean.result()]

    return model(tracked={"mean": mean}), step


def optimizer_in_a_list() -> Any:
    weight = variable()
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build([weight])

    def step() -> Any:
        optimizer.apply_gradients([(tf.constant(random.random()), weight)])
        return [weight, *optimizer.variables]

    # Keras itself would track a list of them as layers.
    return model(parts={"optimizer": (optimizer, weight)}), step


def module_in_a_list() -> Any:
    module = tf.Module()
    module.inner = [variable()]
    return model(modules=[module]), lambda: [module.inner[0].assign_add(1.0)]


CASES = [
    in_a_list,
    in_a_private_list,
    in_nested_containers,
    in_a_plain_object,
    of_a_layer,
    generators,
    metrics_in_a_dictionary,
    optimizer_in_a_list,
    module_in_a_list,
]


def begun(make: Callable[[], Any], seed: int) -> tuple[Any, Any]:
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    found, step = make()
    return step, rtf.TrainState(model=found)


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_it_goes_on_as_if_nothing_had_happened(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    def values(step: Any) -> list[Any]:
        return [np.asarray(value) for _ in range(3) for value in step()]

    step, state = begun(make, 1)
    values(step)
    state.step = 3
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.save(state)
    expected = values(step)
    step, state = begun(make, 2)
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        info = checkpointer.restore_or_initialize(state)
    assert info is not None and info.step == 3
    for one, other in zip(values(step), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_names_are_those_of_the_program() -> None:
    found, _ = of_a_layer()
    owners = {entry.owner for entry in rtf.TrainState(model=found).inventory()}
    if hasattr(keras, "version"):
        assert any("sums['kernel'][0]" in owner for owner in owners)


def test_tensorflow_alone_restores_the_model(tmp_path: Path) -> None:
    found, _ = in_a_list()
    state = rtf.TrainState(model=found)
    path = state.capture().checkpoint().save(str(tmp_path / "ckpt"))
    other, _ = in_a_list()
    tf.train.Checkpoint(model=other).restore(path).assert_existing_objects_matched()
    for one, two in zip(other.variables, found.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def test_objects_that_answer_everything_are_left_alone() -> None:
    slotted = Slotted()
    found = model(a=mock.MagicMock(), b=[mock.Mock()], c=slotted, d=Plain(mock.Mock()))
    rtf.TrainState(model=found).capture()
