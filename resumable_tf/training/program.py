"""What a training run computes: the Transformer, its optimizer and its step.

    program = build_program(config, model_config, strategy)
    program.train_steps.trace(iterator)

The training script runs it, and `resumable-tf tpu check` compiles the very same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from models.config import TransformerConfig
from models.dropout import DropoutKey, seed_key
from models.transformer import build_transformer
from resumable_tf.data.record_files import RowLayout
from resumable_tf.training.config import TrainConfig
from resumable_tf.training.optimizer import FusedAdam, WarmupSchedule
from resumable_tf.training.step import (
    Batch,
    ReplicaContext,
    StepSettings,
    TrainSteps,
)


@dataclass(frozen=True)
class TrainProgram:
    """The live objects of a training.

    Attributes:
        model: The Transformer.
        optimizer: Built for its variables.
        schedule: The learning rate by step.
        train_steps: Several steps in one call, by the strategy.
    """

    model: Any
    optimizer: Any
    schedule: Any
    train_steps: TrainSteps


def build_program(
    config: TrainConfig, model_config: TransformerConfig, strategy: Any
) -> TrainProgram:
    """Returns what a run of these settings computes.

    Args:
        config: Preset, batch size and seed.
        model_config: The model's sizes, vocabulary included.
        strategy: Where its variables and steps are.
    """
    with strategy.scope():
        model = build_transformer(model_config, seed=config.seed)
        optimizer, schedule = make_optimizer(config.recipe.adam)
        optimizer.build(model.trainable_variables)
    settings = training_settings(model, config)
    train_steps = TrainSteps(model, optimizer, strategy, settings)
    return TrainProgram(model, optimizer, schedule, train_steps)


def set_determinism(config: TrainConfig) -> None:
    """Seeds TensorFlow and turns deterministic kernels on, if the config says so."""
    if config.is_deterministic:
        tf.keras.utils.set_random_seed(config.seed)
        tf.config.experimental.enable_op_determinism()


def trace_program(program: TrainProgram, batch_size: int, layout: RowLayout) -> None:
    """Traces the step for batches of empty rows; nothing is run.

    Args:
        program: What to trace.
        batch_size: Rows of a batch, over all replicas.
        layout: Lengths of a row.
    """
    rows = tf.zeros([batch_size, layout.row_width], tf.uint16)
    dataset = tf.data.Dataset.from_tensors(layout.decode(rows)).repeat()
    program.train_steps.trace(iter(dataset))


def training_settings(model: Any, config: TrainConfig) -> StepSettings:
    """Returns how a batch becomes an update: the loss, with dropout."""
    key = seed_key("dropout", config.seed)

    def loss(batch: Batch, context: ReplicaContext) -> tuple[Any, Any]:
        dropout_key = DropoutKey(key, context.step, context.first_row)
        sums = model.loss_sums(batch, dropout_key)
        return sums.loss, sums.log_likelihood_loss

    return StepSettings(config.global_batch_size, loss, count_target_tokens)


def evaluation_settings(model: Any, config: TrainConfig) -> StepSettings:
    """Returns how a batch is evaluated: the loss, without dropout."""

    def loss(batch: Batch, _: ReplicaContext) -> tuple[Any, Any]:
        sums = model.loss_sums(batch)
        return sums.loss, sums.log_likelihood_loss

    return StepSettings(config.global_batch_size, loss, count_target_tokens)


def count_target_tokens(batch: Batch) -> Any:
    """Returns the number of target tokens of a batch, padding not counted, float32."""
    return tf.reduce_sum(tf.cast(batch["target_segments"] > 0, tf.float32))


def make_optimizer(adam: Any) -> tuple[Any, Any]:
    """Returns the optimizer and the schedule of an `AdamConfig`."""
    schedule = WarmupSchedule(
        adam.peak_learning_rate,
        warmup_steps=adam.warmup_steps,
        decay_steps=adam.decay_steps,
    )
    optimizer = FusedAdam(
        schedule, beta_1=adam.beta_1, beta_2=adam.beta_2, epsilon=adam.epsilon
    )
    return optimizer, schedule
