"""Eager, unbuilt and subclassed models are resumed exactly, or refused at once.

Guards against checkpoints that can never be restored, since what they hold is made by
the first step only: compiled metrics, optimizers, late layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from helpers.fit_runs import Interrupted, differences, fit, interrupt_after
from helpers.keras_programs import IS_KERAS_3, Program, fresh, labels, numbers, shuffled

import resumable_tf as rtf
from resumable_tf.errors import StateError

keras = tf.keras
layers = keras.layers


def sparse() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled_metrics() -> Program:
    """Without an input shape, with metrics that the first step makes."""
    model = keras.Sequential([layers.Dense(8), layers.Dropout(0.3), layers.Dense(3)])
    model.compile("adam", sparse(), metrics=["accuracy"], run_eagerly=True)
    return Program(model, {"x": shuffled(numbers(30, 5), labels(30)), "epochs": 2})


class Sub(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.top = layers.Dense(8), layers.Dense(1)
        self.count = tf.Variable(0.0, trainable=False)
        self.losses_seen: list[float] = []
        self.num_steps = 0

    def call(self, x: Any) -> Any:
        return self.top(self.hidden(x))

    def train_step(self, data: Any) -> Any:
        self.count.assign_add(1.0)
        self.num_steps += 1
        return super().train_step(data)


class Looking(Sub):
    """Its step looks at values, so that it can't be traced."""

    def train_step(self, data: Any) -> Any:
        logs = super().train_step(data)
        float(tf.convert_to_tensor(next(iter(logs.values()))).numpy())
        return logs


def subclassed(kind: type[Sub] = Sub) -> Program:
    model = kind()
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    arguments = {"x": numbers(26, 5), "y": numbers(26, 1, seed=2), "batch_size": 4}
    return Program(model, {**arguments, "epochs": 2})


def looking() -> Program:
    return subclassed(Looking)


class Gan(keras.Model):
    """After the GANs of keras.io; nothing is built before the first step."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.critic = keras.Sequential([layers.Dense(6), layers.Dense(1)])
        self.generator = keras.Sequential([layers.Dense(6), layers.Dense(4)])
        self.noise = tf.random.Generator.from_seed(5)
        self.tracker = keras.metrics.Mean(name="critic_loss")
        self.looks = looks

    @property
    def metrics(self) -> list[Any]:
        return [self.tracker]

    def train(self, network: Any, optimizer: Any, loss_of: Callable[[], Any]) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of()
        weights = network.trainable_weights
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return loss

    def train_step(self, real: Any) -> dict[str, Any]:
        if self.looks and float(real[0, 0]) > 1e9:
            raise AssertionError
        rows = tf.shape(real)[0]

        def critic_loss() -> Any:
            fake = self.generator(self.noise.normal((rows, 3)))
            return tf.reduce_mean(self.critic(real)) - tf.reduce_mean(self.critic(fake))

        def generator_loss() -> Any:
            fake = self.generator(self.noise.normal((rows, 3)))
            return tf.reduce_mean(self.critic(fake) ** 2)

        loss = self.train(self.critic, self.critic_optimizer, critic_loss)
        self.train(self.generator, self.generator_optimizer, generator_loss)
        self.tracker.update_state(loss)
        return {"critic_loss": self.tracker.result()}


def gan(looks: bool = False) -> Program:
    model = Gan(looks)
    model.compile(run_eagerly=True)
    model.critic_optimizer = keras.optimizers.Adam(0.01)
    model.generator_optimizer = keras.optimizers.Adam(0.02)
    data = tf.data.Dataset.from_tensor_slices(numbers(26, 4)).shuffle(26).batch(4)
    return Program(model, {"x": data, "epochs": 2})


@pytest.mark.parametrize("make", [compiled_metrics, subclassed, looking, gan])
@pytest.mark.filterwarnings("ignore:.*shuffle=True.*:UserWarning")
def test_an_eager_fit_is_resumed_exactly(
    tmp_path: Path, make: Callable[[], Program], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = fit(fresh(make), [])
    for kill in (5, 4):
        resume = rtf.ResumeCallback(str(tmp_path), save_every_steps=3)
        with pytest.raises(Interrupted):
            fit(fresh(make), [resume, interrupt_after(kill)])
    program = fresh(make)
    resume = rtf.ResumeCallback(str(tmp_path), save_every_steps=3)
    capsys.readouterr()
    found = fit(program, [resume])
    assert "resumed from step 6" in capsys.readouterr().out
    assert not differences(expected, found)


def test_building_leaves_counters_in_python_alone(tmp_path: Path) -> None:
    program = fresh(subclassed)
    fit(program, [rtf.ResumeCallback(str(tmp_path))])
    assert program.model.num_steps == program.model.count.numpy() == 14


@pytest.mark.filterwarnings("ignore:.*shuffle=True.*:UserWarning")
def test_what_can_not_be_built_is_refused_before_the_first_batch(
    tmp_path: Path,
) -> None:
    program = fresh(lambda: gan(looks=True))
    with pytest.raises((StateError, ValueError), match=r"[bB]uild"):
        fit(program, [rtf.ResumeCallback(str(tmp_path))])
    assert not list((tmp_path / "checkpoints").glob("*.json"))


@pytest.mark.skipif(not IS_KERAS_3, reason="names what Keras 3 makes")
@pytest.mark.filterwarnings("ignore:.*shuffle=True.*:UserWarning")
def test_the_remedy_of_the_refusal_works(tmp_path: Path) -> None:
    def built() -> Program:
        program = gan(looks=True)
        model = program.model
        model.generator(tf.zeros((1, 3)))
        model.critic(tf.zeros((1, 4)))
        model.built = True
        model.critic_optimizer.build(model.critic.trainable_variables)
        model.generator_optimizer.build(model.generator.trainable_variables)
        return program

    expected = fit(fresh(built), [])
    resume = rtf.ResumeCallback(str(tmp_path), save_every_steps=3)
    with pytest.raises(Interrupted):
        fit(fresh(built), [resume, interrupt_after(5)])
    resume = rtf.ResumeCallback(str(tmp_path), save_every_steps=3)
    found = fit(fresh(built), [resume])
    # Keras' own optimizer of this model, which nobody uses, is built here only.
    assert all(re.match(r"optimizer\d", name) for name in differences(expected, found))
