"""This project's own compiled training step, as the benchmarks drive it.

    training = OurTraining(recipe, open_dataset(recipe, data="embedded", records=None))
    block = training.run(20)
    block.tokens / block.secs

It is what `scripts/train_translation.py` runs, without saving, logging and
evaluation: the same model, optimizer, kernels and input pipeline.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from blocks import limit_to_cores, peak_memory_mb, serve

from models.config import Recipe, preset

SEED = 1


class Block(NamedTuple):
    """One timed piece of training.

    Attributes:
        secs: Wall-clock seconds, until the last loss is known.
        tokens: Source and target tokens trained on, padding not counted.
        steps: Updates.
        loss: Of the last step: nats per target token.
    """

    secs: float
    tokens: int
    steps: int
    loss: float


def set_threads(num_threads: int | None) -> None:
    """Bounds TensorFlow's threads and their cores; before any other TensorFlow call."""
    import tensorflow as tf

    if num_threads:
        limit_to_cores(num_threads)
        tf.config.threading.set_intra_op_parallelism_threads(num_threads)
        tf.config.threading.set_inter_op_parallelism_threads(num_threads)


def open_dataset(recipe: Recipe, *, data: str, records: str | None) -> Any:
    """Returns the training rows of a preset; they are prepared if missing."""
    from resumable_tf.data.dataset import RecordDataset
    from resumable_tf.data.prepare import PrepareSettings, prepare_records

    settings = PrepareSettings(
        vocab_size=recipe.vocab_size, target_length=recipe.row_length
    )
    directory = records or f"runs/benchmark-records-{recipe.name}"
    record_set = prepare_records(data, directory, settings=settings)
    return RecordDataset(record_set, global_batch_size=recipe.batch_size, seed=SEED)


def count_tokens(batch: Any) -> int:
    """Returns the source and target tokens of a batch, padding not counted."""
    segments = (batch["source_segments"], batch["target_segments"])
    return sum(int(np.count_nonzero(side)) for side in segments)


class OurTraining:
    """A model in training, and where it is in its data."""

    def __init__(self, recipe: Recipe, dataset: Any) -> None:
        """Builds model and optimizer; the first `run` compiles the step."""
        import tensorflow as tf

        from models import build_transformer
        from models.dropout import DropoutKey, seed_key
        from resumable_tf.training.program import count_target_tokens, make_optimizer
        from resumable_tf.training.step import StepSettings, TrainSteps

        tf.keras.utils.set_random_seed(SEED)
        tf.config.experimental.enable_op_determinism()
        strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
        vocab_size = dataset.records.load_tokenizer().vocab_size
        self.config = recipe.model_config(vocab_size)
        with strategy.scope():
            self.model = build_transformer(self.config, seed=SEED)
            self.optimizer, _ = make_optimizer(recipe.adam)
            self.optimizer.build(self.model.trainable_variables)
        key = seed_key("dropout", SEED)

        def loss(batch: Any, context: Any) -> tuple[Any, Any]:
            dropout_key = DropoutKey(key, context.step, context.first_row)
            sums = self.model.loss_sums(batch, dropout_key)
            return sums.loss, sums.log_likelihood_loss

        settings = StepSettings(recipe.batch_size, loss, count_target_tokens)
        self._train_steps = TrainSteps(self.model, self.optimizer, strategy, settings)
        self._dataset = dataset
        self._iterator = iter(dataset.from_step(0))
        self.step = 0

    def run(self, num_steps: int) -> Block:
        """Trains the next steps in one compiled call."""
        batches = self._dataset.from_step(self.step).take(num_steps)
        begun = time.perf_counter()
        last = self.train(num_steps)
        secs = time.perf_counter() - begun
        tokens = sum(count_tokens(batch) for batch in batches.as_numpy_iterator())
        return Block(secs, tokens, num_steps, last)

    def train(self, num_steps: int) -> float:
        """Does the same and returns the last loss; counts nothing."""
        losses, _ = self._train_steps(self._iterator, self.step, num_steps)
        self.step += num_steps
        return float(losses[-1])


def export_batches(dataset: Any, path: str, num_steps: int) -> None:
    """Writes the first batches as arrays [steps, B, ...], for a process without TF."""
    batches = list(dataset.from_step(0).take(num_steps).as_numpy_iterator())
    arrays = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    np.savez(path, **arrays)


def main() -> None:
    """Serves blocks of training to `train_vs_pytorch.py`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--data", default="embedded")
    parser.add_argument("--records")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--export", required=True)
    parser.add_argument("--num-steps", type=int, required=True)
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # As scripts/train_translation.py does.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    set_threads(args.threads)
    import tensorflow as tf

    recipe = preset(args.preset)
    dataset = open_dataset(recipe, data=args.data, records=args.records)
    export_batches(dataset, args.export, args.num_steps)
    training = OurTraining(recipe, dataset)
    about = {
        "version": f"TensorFlow {tf.__version__}, Python {sys.version.split()[0]}",
        "vocab_size": training.config.vocab_size,
        "num_parameters": training.config.num_parameters,
    }

    def run(num_steps: int) -> dict[str, Any]:
        return {**training.run(num_steps)._asdict(), "peak_mb": peak_memory_mb()}

    serve(about, run)


if __name__ == "__main__":
    main()
