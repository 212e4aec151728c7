"""The random generators of the whole process are part of the training state.

Each case is saved after some steps, begun again with another seed, restored, and must
draw what the uninterrupted program draws.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import resumable_tf as rtf
from resumable_tf.errors import StateError
from resumable_tf.state import _tensorflow
from resumable_tf.state.global_random import global_random, set_global_random

keras = tf.keras
IS_KERAS_3 = hasattr(keras, "version") and keras.version().startswith("3.")

Draw = Callable[[], Any]


def eager_operations() -> Draw:
    return lambda: [
        tf.random.normal([2]),
        tf.random.uniform([]),
        tf.random.gamma([], 1),
    ]


def shuffled_tensor() -> Draw:
    return lambda: [
        tf.random.shuffle(tf.range(20)),
        tf.random.categorical([[0.0] * 9], 4),
    ]


def image_operations() -> Draw:
    image = tf.reshape(tf.range(48.0), (4, 4, 3)) / 48
    return lambda: [
        tf.image.random_brightness(image, 0.3),
        tf.image.random_flip_left_right(image),
        tf.nn.dropout(image, 0.5),
    ]


def global_generator() -> Draw:
    tf.random.set_global_generator(tf.random.Generator.from_seed(random.randrange(99)))
    return lambda: [tf.random.get_global_generator().normal([2])]


def global_generator_in_a_function() -> Draw:
    tf.random.set_global_generator(tf.random.Generator.from_seed(random.randrange(99)))

    @tf.function
    def draw() -> Any:
        return tf.random.get_global_generator().normal([2])

    return lambda: [draw()]


def initializers() -> Draw:
    return lambda: [keras.layers.Dense(2).build((1, 3)) or new_kernel()]


def new_kernel() -> Any:
    layer = keras.layers.Dense(2)
    layer.build((1, 3))
    return layer.kernel


def new_dataset() -> Draw:
    """A dataset that is made underway draws its seeds where eager operations do."""
    return lambda: list(tf.data.Dataset.range(9).shuffle(9).batch(9))


def python_and_numpy() -> Draw:
    return lambda: [random.random(), np.random.normal(), random.gauss(0, 1)]


def keras_without_seed() -> Draw:
    return lambda: [keras.random.normal([2]), keras.random.randint([3], 0, 99)]


def keras_without_seed_in_a_function() -> Draw:
    keras.random.normal([])
    draw = tf.function(lambda: keras.random.uniform([2]))
    return lambda: [draw()]


CASES = [
    eager_operations,
    shuffled_tensor,
    image_operations,
    global_generator,
    global_generator_in_a_function,
    initializers,
    new_dataset,
    python_and_numpy,
]
if IS_KERAS_3:
    CASES += [keras_without_seed, keras_without_seed_in_a_function]


@pytest.fixture(autouse=True)
def _restores_generators() -> Any:
    yield
    tf.random.set_seed(1)
    _tensorflow.private(
        "tensorflow.python.ops.stateful_random_ops", "set_global_generator"
    )(None)


def begun(make: Callable[[], Draw], seed: int) -> tuple[Draw, rtf.TrainState]:
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    state = rtf.TrainState(weight=tf.Variable(0.0))
    return make(), state


def values(draw: Draw, count: int) -> list[Any]:
    return [np.asarray(value) for _ in range(count) for value in draw()]


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_a_loop_goes_on_in_the_sequence(
    make: Callable[[], Draw], tmp_path: Path
) -> None:
    draw, state = begun(make, 1)
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.restore_or_initialize(state)
        begin = values(draw, 3)
        state.step = 3
        checkpointer.save(state)
    expected = values(draw, 3)
    draw, state = begun(make, 2)
    values(draw, 1)
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        info = checkpointer.restore_or_initialize(state)
    assert info is not None and info.step == 3
    found = values(draw, 3)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(not np.array_equal(a, b) for a, b in zip(found, begin, strict=True))


def test_a_seed_drawn_again_does_not_meet_a_used_operation() -> None:
    """In one process, as where a run is rewound or audited."""
    tf.random.set_seed(3)
    state = global_random()
    first = [float(tf.random.normal([])) for _ in range(3)]
    set_global_random(state)
    assert [float(tf.random.normal([])) for _ in range(3)] == first


@pytest.mark.skipif(not IS_KERAS_3, reason="Keras 3 draws from a variable")
def test_a_generator_that_keras_had_not_made_yet_is_made_anew() -> None:
    keras.utils.set_random_seed(3)
    state = global_random()
    assert state["keras"] is None
    first = keras.random.normal([2]).numpy()
    set_global_random(state)
    np.testing.assert_array_equal(keras.random.normal([2]), first)


def test_global_random_can_be_left_alone(tmp_path: Path) -> None:
    state = rtf.TrainState(weight=tf.Variable(0.0), global_random=False)
    assert [entry.key for entry in state.inventory()] == [
        "weight/.ATTRIBUTES/VARIABLE_VALUE"
    ]


def test_an_eager_operation_with_its_own_seed_is_refused(tmp_path: Path) -> None:
    state = rtf.TrainState(weight=tf.Variable(0.0))
    tf.random.uniform([], seed=5)  # Before training: in each process alike.
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.restore_or_initialize(state)
        checkpointer.save(state)
        tf.random.uniform([], seed=5)
        with pytest.raises(
            StateError, match=r"test_global_random\.py:\d+ draws.*seed=5.*Leave"
        ):
            checkpointer.save(state)


def test_seeded_datasets_and_initial_values_are_no_draws(tmp_path: Path) -> None:
    state = rtf.TrainState(weight=tf.Variable(0.0))
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.restore_or_initialize(state)
        list(tf.data.Dataset.range(5).shuffle(5, seed=1))
        keras.initializers.GlorotUniform(seed=5)((2, 2))
        checkpointer.save(state)


def test_numbers_without_any_seed_are_said(caplog: pytest.LogCaptureFixture) -> None:
    tf.random.set_seed(None)
    state = rtf.TrainState(weight=tf.Variable(0.0))
    tf.random.normal([])
    state.capture()
    assert "test_global_random.py" in caplog.text
    assert "tf.random.set_seed" in caplog.text


def test_another_version_says_what_is_missing() -> None:
    with pytest.raises(StateError, match=r"eager\.context\.gone is not there"):
        _tensorflow.private("tensorflow.python.eager.context", "gone")
