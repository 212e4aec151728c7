"""The training that `save_cost.py` saves from TensorFlow, the same for all its peers.

training = TensorFlowTraining(plan)
training.step()
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from save_cost_plan import Plan
from save_cost_process import (
    BETA_1,
    BETA_2,
    DECAY,
    EPSILON,
    LEARNING_RATE,
    initial_values,
    operands,
)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf


class Parameters(tf.keras.layers.Layer):
    """Holds the parameters."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(name="parameters")
        self.held = [
            self.add_weight(shape=shape, name=f"parameter_{index}")
            for index, shape in enumerate(plan.shapes)
        ]
        self.built = True
        for variable, value in zip(self.held, initial_values(plan), strict=True):
            variable.assign(value)


class Model(tf.keras.Model):
    """Changes each of its parameters at each step."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.parameters = Parameters(plan)
        self.built = True
        self._num_products = plan.num_products

    def call(self, inputs: Any) -> Any:
        return inputs

    def train_step(self, data: Any) -> dict[str, Any]:
        """Multiplies, and updates every parameter."""
        x, w = data
        for _ in range(self._num_products):
            x = tf.tanh(tf.matmul(x, w))
        mean = tf.reduce_mean(x)
        held = self.parameters.held
        gradients = [DECAY * tf.convert_to_tensor(v) + mean for v in held]
        self.optimizer.apply_gradients(zip(gradients, held, strict=True))
        return {"loss": mean}


class TensorFlowTraining:
    """A model and an optimizer, with one compiled step.

    Attributes:
        model: The model, compiled.
        optimizer: Its optimizer, built.
        operands: What each step multiplies.
    """

    def __init__(self, plan: Plan) -> None:
        tf.keras.utils.set_random_seed(1)
        self.model = Model(plan)
        self.optimizer = make_optimizer(plan)
        self.optimizer.build(self.model.trainable_variables)
        self.model.compile(self.optimizer, jit_compile=False)
        self.operands = tuple(tf.constant(array) for array in operands(plan))
        self._step = tf.function(lambda x, w: self.model.train_step((x, w))["loss"])

    def step(self) -> None:
        self._step(*self.operands).numpy()

    def variables(self) -> list[Any]:
        """Returns the parameters, the moments and the optimizer's counters."""
        return [*self.model.trainable_variables, *self.optimizer.variables]

    def arrays(self) -> Iterator[np.ndarray]:
        for variable in self.variables():
            if variable.dtype == "float32":
                yield variable.numpy()


def make_optimizer(plan: Plan) -> Any:
    """Returns Adam, in the form that the plan names."""
    from resumable_tf.training.optimizer import FusedAdam

    kind = FusedAdam if plan.optimizer == "fused" else tf.keras.optimizers.Adam
    return kind(LEARNING_RATE, beta_1=BETA_1, beta_2=BETA_2, epsilon=EPSILON)


def tensorflow_version() -> str:
    """Returns the versions, for the report."""
    return f"TensorFlow {tf.__version__}, Keras {tf.keras.__version__}"
