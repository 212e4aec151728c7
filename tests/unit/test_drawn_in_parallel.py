"""The ways out that a refused parallel draw is told of: each is exact, and repeatable.

A pipeline that draws in `map(..., num_parallel_calls=...)` is refused; with the same
functions these programs give the same batches in each start, and from each position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.fit_runs import differences, fit, interrupted_fit
from helpers.keras_programs import IS_KERAS_3, Program, fresh, numbers
from helpers.pipelines import plain, wrong_positions
from tensorflow.python.framework.config import disable_op_determinism

import resumable_tf as rtf

keras = tf.keras
AUTOTUNE = tf.data.AUTOTUNE
Map = Callable[[Any, Any], Any]
only_keras_3 = pytest.mark.skipif(
    not IS_KERAS_3, reason="layers of Keras 3 keep their seed in a variable"
)


def images(count: int = 12) -> np.ndarray:
    return numbers(count * 4, 4).reshape(count, 4, 4, 1)


def augmentation() -> Map:
    """The map of the public example of image classification."""
    layers = [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)]

    def augment(image: Any, label: Any) -> Any:
        for layer in layers:
            image = layer(image)
        return image, label

    return augment


def flipped(image: Any, label: Any) -> Any:
    return tf.image.random_flip_left_right(image), label


def flipped_by_seed(image: Any, label: Any) -> Any:
    return tf.image.random_flip_left_right(image, seed=4), label


def with_generator() -> Map:
    generator = tf.random.Generator.from_seed(3)
    return lambda image, label: (image + generator.normal([]), label)


MAPS: dict[str, Callable[[], Map]] = {
    "flip": lambda: flipped,
    "flip by seed": lambda: flipped_by_seed,
    "generator": with_generator,
}
if IS_KERAS_3:
    MAPS["layers"] = augmentation


def rows() -> Any:
    return tf.data.Dataset.from_tensor_slices((images(), np.arange(12)))


def mapped(name: str, calls: int | None, *, shuffles: bool = True) -> Any:
    """Returns a new dataset whose map draws."""
    tf.keras.utils.set_random_seed(3)
    data = rows().shuffle(12) if shuffles else rows()
    return data.batch(4).map(MAPS[name](), num_parallel_calls=calls).prefetch(AUTOTUNE)


@pytest.fixture
def _op_determinism() -> Iterator[None]:
    tf.config.experimental.enable_op_determinism()
    yield
    disable_op_determinism()


def is_exact(make: Callable[[], Any]) -> bool:
    """Whether all starts give the same, and all positions what follows them."""
    is_repeatable = plain(make(), 2) == plain(make(), 2)
    return is_repeatable and wrong_positions(make, num_epochs=2) == []


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("calls", [AUTOTUNE, 3])
def test_in_parallel_it_is_refused(name: str, calls: int) -> None:
    with pytest.raises(rtf.ResumableError, match="num_parallel_calls"):
        rtf.ResumableIterator(mapped(name, calls))


@pytest.mark.usefixtures("_op_determinism")
@pytest.mark.parametrize("name", MAPS)
def test_with_op_determinism_it_is_exact(name: str) -> None:
    assert is_exact(lambda: mapped(name, AUTOTUNE))


@pytest.mark.slow
@pytest.mark.usefixtures("_op_determinism")
@pytest.mark.parametrize("name", MAPS)
def test_with_op_determinism_it_is_exact_without_a_shuffle_too(name: str) -> None:
    assert is_exact(lambda: mapped(name, 3, shuffles=False))


@pytest.mark.usefixtures("_op_determinism")
def test_an_order_within_a_function_is_exact_with_op_determinism() -> None:
    def make() -> Any:
        tf.keras.utils.set_random_seed(3)
        return (
            tf.data.Dataset.range(3)
            .interleave(
                lambda i: tf.data.Dataset.range(4).map(
                    lambda j: (
                        i * 10 + j + tf.random.uniform([], 0, 99, tf.int64, seed=1)
                    )
                ),
                num_parallel_calls=AUTOTUNE,
            )
            .batch(3)
        )

    assert is_exact(make)


@pytest.mark.usefixtures("_op_determinism")
def test_op_determinism_alone_asks_for_a_seed() -> None:
    """So the advice names both."""
    tf.random.set_seed(None)
    with pytest.raises(RuntimeError, match="set_seed"):
        rows().map(flipped, num_parallel_calls=AUTOTUNE)


@pytest.mark.parametrize("name", MAPS)
def test_one_by_one_it_is_exact(name: str) -> None:
    assert is_exact(lambda: mapped(name, None))


def test_stateless_draws_are_exact_in_parallel() -> None:
    def draw(number: Any, row: Any) -> Any:
        image, label = row
        seed = tf.stack([number, tf.constant(5, tf.int64)])
        return tf.image.stateless_random_flip_left_right(image, seed), label

    def make() -> Any:
        data = rows().shuffle(12, seed=1).enumerate()
        return data.map(draw, num_parallel_calls=AUTOTUNE).batch(4).prefetch(AUTOTUNE)

    assert is_exact(make)


def classifier(*, in_model: bool) -> Program:
    """The public example, small: the layers in the map, or in the model."""
    data = tf.data.Dataset.from_tensor_slices((images(24), np.arange(24) % 2))
    data = data.shuffle(24).batch(4)
    layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
    if in_model:
        layers.insert(0, keras.layers.RandomRotation(0.1))
        layers.insert(0, keras.layers.RandomFlip("horizontal"))
    else:
        data = data.map(augmentation(), num_parallel_calls=AUTOTUNE)
    model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return Program(model, {"x": data.prefetch(AUTOTUNE), "epochs": 3})


@only_keras_3
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
@pytest.mark.parametrize(
    "in_model",
    [pytest.param(value, marks=pytest.mark.slow) for value in (False, True)],
)
def test_the_public_example_continues_exactly(
    in_model: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not in_model:
        request.getfixturevalue("_op_determinism")

    def make() -> Program:
        return fresh(lambda: classifier(in_model=in_model))

    expected = fit(make(), [])
    result = interrupted_fit("", tmp_path, every=1, kills=[3, 8, 2], program=make)
    assert not differences(expected, result)
