"""`fit` over pipelines whose position TensorFlow's iterator state does not give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.fit_runs import differences, fit, interrupted_fit
from helpers.keras_programs import IS_KERAS_3, Program, fresh, numbers

import resumable_tf as rtf

keras = tf.keras
pytestmark = [
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*ran out of data:UserWarning"),
    pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def small(**arguments: Any) -> Program:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    compiled = {"steps_per_execution": arguments.pop("steps_per_execution", 1)}
    model.compile("sgd", "mse", **compiled)
    return Program(model, {"epochs": 3, **arguments}, [])


def rows(first: int = 0) -> Any:
    """Returns 24 rows whose order the weights show."""
    x, y = numbers(48, 5)[first : first + 24], numbers(48, 1, seed=9)
    return tf.data.Dataset.from_tensor_slices((x, y[first : first + 24]))


def augmented() -> Program:
    generator = tf.random.Generator.from_seed(5)

    def noisy(x: Any, y: Any) -> Any:
        return x + generator.normal(tf.shape(x)), y

    return small(x=rows().shuffle(24, seed=1).map(noisy).batch(4).prefetch(1))


def drawn(x: Any, y: Any) -> Any:
    return x + tf.random.normal(tf.shape(x)), y


def arrays(**arguments: Any) -> Program:
    x, y = numbers(800, 5), numbers(800, 1, seed=9)
    return small(x=x, y=y, batch_size=4, epochs=2, **arguments)


CASES: dict[str, tuple[Callable[[], Program], list[int]]] = {
    "read to its end at once": (
        lambda: small(x=rows().shuffle(24, seed=1).batch(4).prefetch(100)),
        [8, 3],
    ),
    "one batch an epoch": (
        lambda: small(x=rows().shuffle(24, seed=1).batch(24), epochs=6),
        [2, 2],
    ),
    "an epoch in one call": (
        lambda: small(
            x=rows().shuffle(24, seed=1).batch(4), steps_per_execution=6, epochs=6
        ),
        [2],
    ),
    "two shuffles, one after the other": (
        lambda: small(
            x=rows()
            .shuffle(12, seed=1)
            .concatenate(rows(24).shuffle(12, seed=2))
            .batch(4)
        ),
        [14, 9],
    ),
    "passed over without an end": (
        lambda: small(
            x=rows().shuffle(24, seed=1).batch(5).prefetch(3).repeat(),
            steps_per_epoch=7,
        ),
        [5, 7],
    ),
    "a generator in the map": (augmented, [8]),
    "random numbers in the map": (
        lambda: small(x=rows().shuffle(9, seed=1).map(drawn).batch(4)),
        [8],
    ),
    "arrays, batches shuffled": (lambda: arrays(shuffle="batch"), [55]),
    "arrays, shuffled": (lambda: arrays(shuffle=True), [255]),
    "arrays, in order, weighted": (
        lambda: arrays(shuffle=False, sample_weight=np.arange(800) / 800),
        [55],
    ),
}
QUICK = {"read to its end at once", "two shuffles, one after the other"}
QUICK |= {"a generator in the map"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in CASES
    ],
)
def test_an_interrupted_fit_equals_plain_fit(name: str, tmp_path: Path) -> None:
    make, kills = CASES[name]
    expected = fit(fresh(make), [])
    result = interrupted_fit(
        name,
        tmp_path,
        every=1 if max(kills) < 20 else 50,
        kills=kills,
        program=lambda: fresh(make),
    )
    assert not differences(expected, result)


def test_drawing_in_parallel_is_refused_before_the_first_batch(tmp_path: Path) -> None:
    program = fresh(lambda: small(x=rows().map(drawn, num_parallel_calls=2).batch(4)))
    batches: list[int] = []
    count = keras.callbacks.LambdaCallback(
        on_batch_end=lambda batch, logs=None: batches.append(batch)
    )
    with pytest.raises(rtf.ResumableError, match=r"\(drawn\).*determinism"):
        fit(program, [count, rtf.ResumeCallback(str(tmp_path))])
    assert not batches


@pytest.mark.skipif(not IS_KERAS_3, reason="layers of Keras 3 in a map")
def test_layers_that_augment_in_the_map(tmp_path: Path) -> None:
    def make() -> Program:
        flip = keras.layers.RandomFlip("horizontal", seed=3)
        x = numbers(24, 5).reshape(24, 1, 5, 1)

        def augment(image: Any, y: Any) -> Any:
            return tf.reshape(flip(image, training=True), (5,)), y

        data = tf.data.Dataset.from_tensor_slices((x, numbers(24, 1, seed=9)))
        return small(x=data.shuffle(24, seed=2).map(augment).batch(4).prefetch(2))

    expected = fit(fresh(make), [])
    result = interrupted_fit(
        "", tmp_path, every=1, kills=[8, 5], program=lambda: fresh(make)
    )
    assert not differences(expected, result)
