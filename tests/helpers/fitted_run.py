"""A run directory whose small model has learned its few sentences by heart."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from helpers.records import text_pairs, write_tsv
from helpers.settings import SETTINGS

from models import TransformerConfig, build_transformer
from resumable_tf.checkpoint import Checkpointer
from resumable_tf.data.dataset import RecordDataset
from resumable_tf.data.prepare import prepare_records
from resumable_tf.data.record_files import RecordSet
from resumable_tf.state import TrainState

_BATCH_SIZE = 8
_MAX_STEPS = 500
_LOW_LOSS, _NUM_LOW = 0.001, 5


@dataclass(frozen=True)
class FittedRun:
    """What `fitted_run` made.

    Attributes:
        directory: The run directory.
        model: The trained model.
        records: Its records.
        known: Pairs that the model was trained on.
        step: Of its only checkpoint.
    """

    directory: Path
    model: Any
    records: RecordSet
    known: list[tuple[str, str]]
    step: int


@functools.cache
def fitted_run() -> FittedRun:
    """Returns the run; made once for all tests of a process."""
    # Held by the function itself, so that it lives as long as the process.
    fitted_run.scratch = tempfile.TemporaryDirectory()
    directory = Path(fitted_run.scratch.name) / "run"
    directory.mkdir()
    pairs = text_pairs(30, seed=3)
    source = f"tsv:{write_tsv(directory / 'pairs.tsv', pairs)}"
    records = prepare_records(source, str(directory / "records"), settings=SETTINGS)
    config = TransformerConfig(
        vocab_size=records.load_tokenizer().vocab_size,
        num_encoder_layers=1,
        num_decoder_layers=2,
        model_dim=64,
        num_heads=4,
        ffn_dim=128,
        label_smoothing=0.0,
    )
    model = build_transformer(config, seed=1)
    dataset = RecordDataset(records, global_batch_size=_BATCH_SIZE, seed=1)
    optimizer = tf.keras.optimizers.Adam(3e-3, beta_2=0.98)
    optimizer.build(model.trainable_variables)
    step = _fit(model, optimizer, dataset)
    state = TrainState(model=model, optimizer=optimizer, data=dataset)
    state.step = step
    settings = {
        "preset": "none",
        "model": asdict(config),
        "data": source,
        "records": str(directory / "records"),
        "seed": 1,
        "batch_size": _BATCH_SIZE,
    }
    with Checkpointer(str(directory), config=settings) as checkpointer:
        checkpointer.save(state)
    held_out = set(_lines(records, "test.tsv"))
    known = [pair for pair in pairs if "\t".join(pair) not in held_out]
    return FittedRun(directory, model, records, known, step)


def _fit(model: Any, optimizer: Any, dataset: RecordDataset) -> int:
    """Trains until the loss is low; returns the number of steps."""

    @tf.function(autograph=False)
    def train(batch: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            sums = model.loss_sums(batch)
            loss = sums.loss / sums.num_tokens
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        return loss

    num_low = 0
    for step, batch in enumerate(dataset.from_step(0), start=1):
        num_low = num_low + 1 if float(train(batch)) < _LOW_LOSS else 0
        if num_low == _NUM_LOW or step == _MAX_STEPS:
            return step
    raise AssertionError("the dataset has no end")


def _lines(records: RecordSet, file: str) -> list[str]:
    return Path(records.path_of(file)).read_text("utf-8").splitlines()
