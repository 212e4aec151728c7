"""The training whose run directory is committed under `tests/golden/run`.

    python -m helpers.make_golden_run       writes it anew, after a change of the format

What it computes is exact on every processor: float32 numbers that are halved and added
to multiples of 1/1024, by integers that TensorFlow's Philox generator draws. So today's
code must continue it to the numbers of `tests/golden/continued.json`, bit for bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

import resumable_tf as rtf

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
RUN = GOLDEN / "run"
CONTINUED = GOLDEN / "continued.json"
SAVED_STEPS = (2, 4)
LAST_STEP = 9
CONFIG = {"seed": 3, "batch_size": 4}
METRICS = {"loss": 0.5}
_TIME = 1_700_000_000.0


class Net(tf.Module):
    """A matrix, a counter, an unaligned dtype and a generator."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.fill([3, 2], fill))
        self.num_seen = tf.Variable(int(fill), dtype=tf.int64)
        self.is_odd = tf.Variable(False)
        self.generator = tf.random.Generator.from_seed(int(fill) + 5)


class Batches:
    """Seekable data: the batch of a step is arithmetic."""

    steps_per_epoch = 5

    def describe(self) -> dict[str, Any]:
        return {"global_batch_size": CONFIG["batch_size"], "fingerprint": "golden"}

    def batch(self, step: int) -> int:
        return (step * 7) % 11


def golden_state(*, fill: float = 0.0) -> rtf.TrainState:
    """Returns the live objects; with another `fill`, other initial values."""
    return rtf.TrainState(net=Net(fill), data=Batches())


def checkpointer(run_dir: Path) -> rtf.Checkpointer:
    options = rtf.SaveOptions(clock=lambda: _TIME)
    return rtf.Checkpointer(str(run_dir), config=CONFIG, options=options)


def train(state: rtf.TrainState, saver: rtf.Checkpointer, to_step: int) -> None:
    """Trains on; each step depends on all before it."""
    net, data = state.trackables["net"], Batches()
    while state.step < to_step:
        drawn = net.generator.uniform([3, 2], 0, 1024, dtype=tf.int32)
        noise = tf.cast(drawn, tf.float32) / 1024
        net.kernel.assign(net.kernel * 0.5 + noise + data.batch(state.step))
        net.num_seen.assign_add(data.batch(state.step))
        net.is_odd.assign(tf.logical_not(net.is_odd))
        state.step += 1
        state.extra = {"seen": state.step}
        if state.step in SAVED_STEPS:
            saver.save(state, metrics=METRICS)


def values(state: rtf.TrainState) -> dict[str, Any]:
    """Returns all values, as JSON holds them exactly."""
    net = state.trackables["net"]
    return {
        "step": state.step,
        "extra": state.extra,
        "kernel": net.kernel.numpy().tolist(),
        "num_seen": int(net.num_seen),
        "is_odd": bool(net.is_odd),
        "generator": net.generator.state.numpy().tolist(),
    }
