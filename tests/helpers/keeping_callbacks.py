"""A `fit` whose callbacks decide by enumerations, records and counts that they keep.

python -m helpers.keeping_callbacks --run-dir DIR [--kill-at BATCH]
    trains it with `ResumeCallback`, and writes DIR/result.npz
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
from typing import Any

import numpy as np
import tensorflow as tf
from helpers.fit_variants import arrays, small_model
from helpers.keras_programs import Program, count_batches, fresh, result_of, shuffled

import resumable_tf as rtf

keras = tf.keras
EPOCHS = 4


class Phase(enum.Enum):
    WARMUP = 0.01
    MAIN = 0.05
    COOL = 0.002


@dataclasses.dataclass(frozen=True)
class Plan:
    rate: float
    phase: Phase


@dataclasses.dataclass
class Best:
    loss: float
    at: list[int]


FIRST_PLAN = Plan(1.0, Phase.WARMUP)


class Planner(keras.callbacks.Callback):
    """Its phase goes on by the losses, and sets the rate."""

    def __init__(self, counts: Any) -> None:
        super().__init__()
        self.phase, self.plan = Phase.WARMUP, FIRST_PLAN
        self.best: Best | None = None
        self.bests: list[Best] = []
        self.counts = counts

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        loss = float(logs["loss"])
        if self.best is None or loss < self.best.loss:
            self.best = Best(loss, [batch])
            self.bests.append(self.best)
        else:
            self.best.at.append(batch)
        self.counts[self.phase.name]["batches"] += 1
        if len(self.best.at) > 2:
            self.phase = Phase.MAIN if self.phase is not Phase.MAIN else Phase.COOL
            self.plan = dataclasses.replace(self.plan, phase=self.phase)
        factor = self.plan.rate * (1 + len(self.bests[0].at) / 10)
        self.model.optimizer.learning_rate = self.plan.phase.value * factor


class Watcher(keras.callbacks.Callback):
    """Shares the counts with the other, and notes them in the history."""

    def __init__(self, counts: Any) -> None:
        super().__init__()
        self.counts = counts
        self.recent: collections.deque[float] = collections.deque(maxlen=3)
        self.smallest: Any = None
        self.compare: Any = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.recent.append(float(logs["loss"]))
        self.compare = self.compare or np.less
        if self.smallest is None or self.compare(self.recent[-1], self.smallest[0]):
            self.smallest = np.array(self.recent)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for phase in Phase:
            logs[phase.name] = float(self.counts[phase.name]["batches"])
        logs["recent"] = float(np.sum(self.recent) + np.sum(self.smallest))


def program() -> Program:
    counts: Any = collections.defaultdict(lambda: collections.defaultdict(int))
    callbacks = [
        Planner(counts),
        Watcher(counts),
        keras.callbacks.EarlyStopping(
            "loss", patience=1, min_delta=10.0, start_from_epoch=EPOCHS - 2
        ),
    ]
    arguments = {"x": shuffled(*arrays()), "epochs": EPOCHS}
    return Program(small_model(), arguments, callbacks)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--kill-at", type=int)
    args = parser.parse_args()
    tf.io.gfile.makedirs(args.run_dir)
    tf.config.experimental.enable_op_determinism()
    made = fresh(program)
    callbacks = [
        *made.callbacks,
        rtf.ResumeCallback(args.run_dir, save_every_steps=3),
        count_batches(f"{args.run_dir}/batches", args.kill_at),
    ]
    history = made.model.fit(**made.arguments, callbacks=callbacks, verbose=0)
    np.savez(f"{args.run_dir}/result.npz", **result_of(made.model, history))


if __name__ == "__main__":
    main()
