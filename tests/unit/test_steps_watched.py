"""A compiled step is watched unasked: it is covered, or the first save refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import resumable_tf as rtf
from resumable_tf.errors import StateError

keras = tf.keras
IS_KERAS_3 = hasattr(keras, "version") and keras.version().startswith("3.")
FILE = r"test_steps_watched\.py:\d+"


class Loop:
    """A generator and a discriminator that train each other, as in tutorials."""

    def __init__(self, tmp_path: Path, draw: Any, **objects: Any) -> None:
        sizes = (keras.Input((3,)), keras.layers.Dense(2))
        self.generator = keras.Sequential(list(sizes))
        self.judge = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        self.optimizers = [keras.optimizers.Adam(), keras.optimizers.Adam()]
        for optimizer, model in zip(
            self.optimizers, (self.generator, self.judge), strict=True
        ):
            optimizer.build(model.trainable_variables)
        self.draw = draw
        self.beside: Any = tf.Variable(0.0) if not objects else objects["beside"]
        self.changes_beside = False
        self.state = rtf.TrainState(
            models=[self.generator, self.judge],
            optimizers=self.optimizers,
            **objects,
        )
        self.checkpointer = rtf.Checkpointer(str(tmp_path), every_steps=1)
        self.step = tf.function(self._step)

    def _step(self) -> Any:
        noise = self.draw([4, 3])
        with tf.GradientTape(persistent=True) as tape:
            score = tf.reduce_mean(self.judge(self.generator(noise)))
        if self.changes_beside:
            self.beside.assign_add(1.0)
        for optimizer, model in zip(
            self.optimizers, (self.generator, self.judge), strict=True
        ):
            variables = model.trainable_variables
            optimizer.apply_gradients(
                zip(tape.gradient(score, variables), variables, strict=True)
            )
        return score

    def run(self, num_steps: int) -> list[float]:
        losses = []
        with self.checkpointer as checkpointer:
            checkpointer.restore_or_initialize(self.state)
            for _ in range(num_steps):
                losses.append(float(self.step()))
                self.state.step += 1
                checkpointer.maybe_save(self.state)
        return losses


def test_hidden_random_numbers_are_refused_with_their_line(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    loop = Loop(tmp_path, lambda shape: tf.random.normal(shape))
    with pytest.raises(
        StateError, match=rf"compiled _step of.*RandomStandardNormal\) at {FILE}.*Use "
    ):
        loop.run(1)


def test_the_remedy_works(tmp_path: Path) -> None:
    def draws(seed: int) -> Any:
        keras.utils.set_random_seed(seed)
        tf.random.set_global_generator(tf.random.Generator.from_seed(seed))
        return lambda shape: tf.random.get_global_generator().normal(shape)

    whole = Loop(tmp_path / "a", draws(1)).run(6)
    first = Loop(tmp_path / "b", draws(1)).run(3)
    again = Loop(tmp_path / "b", draws(2))
    rest = again.run(3)
    assert again.state.step == 6
    assert first + rest == whole
    assert rest != first


@pytest.mark.skipif(not IS_KERAS_3, reason="a variable is drawn from in Keras 3")
def test_keras_numbers_without_a_seed_are_covered(tmp_path: Path) -> None:
    def loop(run: str, seed: int) -> Loop:
        keras.utils.set_random_seed(seed)
        return Loop(tmp_path / run, lambda shape: keras.random.normal(shape))

    whole, first = loop("a", 1).run(6), loop("b", 1).run(3)
    assert first + loop("b", 2).run(3) == whole


def test_noise_of_a_function_of_its_own_is_refused(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    state = rtf.TrainState(weight=tf.Variable(0.0))
    make_noise = tf.function(lambda: tf.random.uniform([2]))
    make_noise()
    with pytest.raises(StateError, match=rf"RandomUniform\) at {FILE}"):
        state.capture()


def test_a_function_that_is_traced_after_the_first_save(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    state = rtf.TrainState(weight=tf.Variable(0.0))
    state.capture()
    state.capture()
    state.capture()
    noise = tf.function(lambda: tf.random.uniform([2]))
    noise()
    with pytest.raises(StateError, match="RandomUniform"):
        state.capture()


def test_noise_before_training_and_in_datasets_is_not_the_steps(
    tmp_path: Path,
) -> None:
    keras.utils.set_random_seed(1)
    before = tf.function(lambda: tf.random.uniform([2]))
    before()
    state = rtf.TrainState(weight=tf.Variable(0.0))
    noise = tf.function(lambda x: tf.random.uniform([2]))
    dataset = (
        tf.data.Dataset.range(3).map(noise).map(lambda x: x + tf.random.normal([]))
    )
    assert len(list(dataset)) == 3
    state.capture()


def test_a_variable_beside_the_state_is_refused_and_can_be_passed(
    tmp_path: Path,
) -> None:
    keras.utils.set_random_seed(1)
    loop = Loop(tmp_path / "a", tf.zeros)
    loop.changes_beside = True
    with pytest.raises(StateError, match=r"1 variables.*Pass the objects that own"):
        loop.run(1)
    loop = Loop(tmp_path / "b", tf.zeros, beside=tf.Variable(0.0))
    loop.changes_beside = True
    loop.run(2)


def test_an_evaluation_may_count_in_variables_of_its_own(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    loop = Loop(tmp_path, tf.zeros)
    mean = keras.metrics.Mean()

    @tf.function
    def evaluate() -> None:
        mean.update_state(loop.judge(tf.ones([1, 2])))

    evaluate()
    loop.run(1)
    assert np.isfinite(float(mean.result()))


def test_watch_refuses_what_is_only_read(tmp_path: Path) -> None:
    weight, scale = tf.Variable(1.0), tf.Variable(2.0, name="scale")
    step = tf.function(lambda: weight.assign(weight * scale))
    state = rtf.TrainState(weight=weight)
    state.watch(step)
    state.capture()  # It is not traced yet.
    step()
    with pytest.raises(StateError, match="scale"):
        state.capture()
