"""Each kind of object that changes in training is restored, bit for bit.

A program trains, saves, trains on; another one, made anew with other initial values and
seeds, restores and must train on alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.keras_programs import IS_KERAS_3

import resumable_tf as rtf

keras = tf.keras
layers = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")
X = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
Step = Callable[[], Any]


def training(
    *inner: Any, optimizer: Any = None, inputs: Any = X, **more: Any
) -> tuple[Step, rtf.TrainState]:
    """Returns an eager training step of a model, and its state."""
    model = keras.Sequential([keras.Input(batch_shape=inputs.shape), *inner])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9) if not optimizer else optimizer
    state = rtf.TrainState(model=model, optimizer=optimizer, **more)

    def step() -> list[Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(inputs, training=True) - 1.0) ** 2)
            scale = getattr(optimizer, "scale_loss", None) or getattr(
                optimizer, "get_scaled_loss", lambda value: value
            )
            scaled = scale(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        unscale = getattr(optimizer, "get_unscaled_gradients", lambda value: value)
        pairs = zip(unscale(gradients), model.trainable_variables, strict=True)
        optimizer.apply_gradients(pairs)
        return [loss.numpy(), *(v.numpy() for v in model.variables)]

    return step, state


def batch_norm() -> Any:
    return training(layers.Dense(3), layers.BatchNormalization(momentum=0.5))


def spectral_norm() -> Any:
    return training(layers.SpectralNormalization(layers.Dense(3)))


def stateful_rnn() -> Any:
    return training(layers.GRU(3, stateful=True), layers.Dense(1))


def normalization() -> Any:
    layer = layers.Normalization()
    layer.adapt(X + np.random.normal())
    return training(layer, layers.Dense(1))


def dropout_seeds() -> Any:
    return training(layers.Dense(8), layers.Dropout(0.5), layers.GaussianNoise(0.3))


def loss_scale() -> Any:
    inner = keras.optimizers.Adam(0.01)
    kind = keras.mixed_precision.LossScaleOptimizer
    if IS_KERAS_3:
        return training(layers.Dense(2), optimizer=kind(inner, dynamic_growth_steps=2))
    optimizer = kind(inner, initial_scale=8.0, dynamic_growth_steps=2)
    return training(layers.Dense(2), optimizer=optimizer)


def moving_average() -> Any:
    optimizer = keras.optimizers.SGD(
        0.1, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=2
    )
    return training(layers.Dense(2), optimizer=optimizer)


def gradient_accumulation() -> Any:
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    return training(layers.Dense(2), optimizer=optimizer)


def rate_set_by_hand() -> Any:
    optimizer = keras.optimizers.SGD(0.1)
    step, state = training(layers.Dense(2), optimizer=optimizer)

    def slower() -> Any:
        optimizer.learning_rate = float(np.asarray(optimizer.learning_rate)) * 0.7
        return step()

    return slower, state


def several_optimizers() -> Any:
    one, other = tf.Variable(np.random.normal()), tf.Variable(np.random.normal())
    optimizers = [keras.optimizers.Adam(0.1), keras.optimizers.RMSprop(0.1)]
    for optimizer, variable in zip(optimizers, (one, other), strict=True):
        optimizer.build([variable])
    state = rtf.TrainState(weights=[one, other], a=optimizers[0], b=optimizers[1])

    def step() -> Any:
        optimizers[0].apply_gradients([(tf.constant(2.0) * one, one)])
        optimizers[1].apply_gradients([(one + other, other)])
        return [one.numpy(), other.numpy()]

    return step, state


def metrics() -> Any:
    mean, area = keras.metrics.Mean(), keras.metrics.AUC(num_thresholds=5)
    weight = tf.Variable(np.random.normal())

    def step() -> Any:
        weight.assign(weight * 0.5 + 0.1)
        mean.update_state(weight)
        area.update_state([0, 1], [0.4, tf.sigmoid(weight)])
        return [np.asarray(mean.result()), np.asarray(area.result())]

    return step, rtf.TrainState(weight=weight, mean=mean, more={"auc": [area]})


def tensorflow_generator() -> Any:
    generator = tf.random.Generator.from_seed(random.randrange(9999))
    return lambda: generator.normal([3]).numpy(), rtf.TrainState(noise=generator)


def global_random() -> Any:
    state = rtf.TrainState(weight=tf.Variable(1.0))
    return lambda: [random.random(), np.random.normal()], state


def own_generators() -> Any:
    one, two = random.Random(random.random()), np.random.default_rng()
    three = np.random.RandomState(random.randrange(9999))
    state = rtf.TrainState(one=one, two=two, three=three)
    return lambda: [one.random(), two.normal(), three.normal()], state


class Sampler:
    """An object of the user's, with nothing of TensorFlow in it."""

    def __init__(self) -> None:
        self.weights = np.random.normal(size=3)
        self.count = 0

    def draw(self) -> Any:
        self.count += 1
        self.weights = self.weights * 1.1 + self.count
        return self.weights.copy()

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights, "count": self.count}

    def load_state(self, state: dict[str, Any]) -> None:
        self.weights, self.count = state["weights"], state["count"]


def object_with_state() -> Any:
    sampler = Sampler()
    return sampler.draw, rtf.TrainState(sampler=sampler)


def table() -> Any:
    found = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, 0)
    found.insert(["a"], [random.randrange(9999)])

    def step() -> Any:
        found.insert(["a"], found.lookup(tf.constant(["a"])) + 1)
        return found.lookup(tf.constant(["a"])).numpy()

    return step, rtf.TrainState(table=found)


def names_of_keras() -> Any:
    """A module is no variable, although its attributes are called as those of one."""
    module = tf.Module()
    module._value = tf.Variable(float(random.randrange(9999)))
    module.inner = tf.Module()
    module.inner.value = tf.Variable(float(random.randrange(9999)))
    module.several = (tf.Variable(float(random.randrange(9999))), 7)
    variables = [module._value, module.inner.value, module.several[0]]

    def step() -> Any:
        return [variable.assign_add(1.0).numpy() for variable in variables]

    return step, rtf.TrainState(module=module)


CASES = [
    names_of_keras,
    batch_norm,
    spectral_norm,
    stateful_rnn,
    normalization,
    dropout_seeds,
    loss_scale,
    moving_average,
    rate_set_by_hand,
    several_optimizers,
    metrics,
    tensorflow_generator,
    global_random,
    own_generators,
    object_with_state,
    table,
]
if IS_KERAS_3:
    CASES.append(gradient_accumulation)


def anew(build: Callable[[], Any], seed: int) -> tuple[Step, rtf.TrainState]:
    keras.backend.clear_session()
    if not IS_KERAS_3:
        keras.backend.experimental.enable_tf_random_generator()
    keras.utils.set_random_seed(seed)
    return build()  # type: ignore[no-any-return]


@pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
def test_it_trains_on_as_if_nothing_had_happened(
    build: Callable[[], Any], tmp_path: Path
) -> None:
    step, state = anew(build, 1)
    for _ in range(3):
        step()
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.save(state)
    expected = [step() for _ in range(3)]
    step, state = anew(build, 2)
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        assert checkpointer.restore_or_initialize(state) is not None
    for values in expected:
        for one, other in zip(step(), values, strict=True):
            np.testing.assert_array_equal(one, other)


class Noisy(layers.Layer):
    """Keeps generators where nobody looks for them."""

    def __init__(self) -> None:
        super().__init__(name="noisy")
        self.numpy_noise = np.random.default_rng(1)
        self.generators = [tf.random.Generator.from_seed(2)]

    def call(self, x: Any) -> Any:
        return x


class TestWhatIsNotCoveredMakesTheFirstSaveFail:
    """By name, with what to do."""

    def test_a_numpy_generator_that_was_used(self) -> None:
        layer = Noisy()
        noise = layer.numpy_noise
        state = rtf.TrainState(layer=layer, generators=list(layer.generators))
        state.capture()
        noise.normal()
        with pytest.raises(rtf.ResumableError, match=r"numpy_noise .*pass it to Train"):
            state.capture()
        named = rtf.TrainState(layer=layer, noise=noise, g=list(layer.generators))
        noise.normal()
        named.capture()

    def test_an_object_without_a_form(self) -> None:
        with pytest.raises(TypeError, match=r"x=object can't be saved.*load_state"):
            rtf.TrainState(x=object())

    def test_a_state_that_is_not_made_of_values(self) -> None:
        sampler = Sampler()
        sampler.weights = lambda: None  # type: ignore[assignment]
        with pytest.raises(rtf.ResumableError, match=r"sampler=Sampler.*let state\(\)"):
            rtf.TrainState(sampler=sampler).capture()
