"""What `ResumeCallback` costs a step of `fit` when nothing is saved.

    python benchmarks/callback_overhead.py --rounds 7 --steps 300

One process, one compiled model, alternating blocks: plain `fit`, `fit` with
`ResumeCallback`, `fit` with Keras' `BackupAndRestore(save_freq="epoch")`. A block is
one epoch; the time runs from the end of its second batch to the end of its last, so
that beginning and ending (restores, the last save) are outside. `--units` sets how long
a step is; look at the difference in microseconds, not at the ratio alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

WAYS = ("plain", "ResumeCallback", "BackupAndRestore")
NEVER = 10**9


def callbacks_of(way: str, directory: str) -> list[Any]:
    """Returns the callbacks of one block; none of them saves inside it."""
    import tensorflow as tf

    import resumable_tf as rtf

    if way == "ResumeCallback":
        return [rtf.ResumeCallback(directory, save_every_steps=NEVER)]
    if way == "BackupAndRestore":
        return [tf.keras.callbacks.BackupAndRestore(directory, save_freq="epoch")]
    return []


def block(model: Any, data: Any, way: str) -> float:
    """Trains one epoch and returns microseconds a step."""
    import tensorflow as tf

    ends: list[float] = []
    clock = tf.keras.callbacks.LambdaCallback(
        on_batch_end=lambda batch, logs=None: ends.append(time.perf_counter())
    )
    with tempfile.TemporaryDirectory() as directory:
        callbacks = [*callbacks_of(way, directory), clock]
        model.fit(data, epochs=1, callbacks=callbacks, verbose=0)
    return (ends[-1] - ends[1]) / (len(ends) - 2) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=300, help="steps of a block")
    parser.add_argument("--units", type=int, default=512, help="width of each layer")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.keras.utils.set_random_seed(1)
    layers = tf.keras.layers
    hidden = [layers.Dense(args.units, activation="relu") for _ in range(4)]
    model = tf.keras.Sequential(
        [tf.keras.Input((args.units,)), *hidden, layers.Dropout(0.1), layers.Dense(1)]
    )
    model.compile("adam", "mse", metrics=["mae"])
    rows = np.random.default_rng(0).normal(size=(args.steps * 32, args.units))
    arrays = (rows.astype(np.float32), np.zeros((len(rows), 1), np.float32))
    data = tf.data.Dataset.from_tensor_slices(arrays).shuffle(64).batch(32)
    for way in WAYS:
        block(model, data, way)  # compiles
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way in WAYS:
            found[way].append(block(model, data, way))
    show(found)


def show(found: dict[str, list[float]]) -> None:
    """Prints medians, and differences to plain `fit` round by round."""
    table = Table("", "us a step", "more than plain, us", "ratio", "by round")
    plain = found["plain"]
    for way, values in found.items():
        more = [one - other for one, other in zip(values, plain, strict=True)]
        ratios = [one / other for one, other in zip(values, plain, strict=True)]
        table.add_row(
            way,
            f"{statistics.median(values):.0f}",
            f"{statistics.median(more):+.0f}",
            f"{statistics.median(ratios):.3f}",
            f"{min(ratios):.3f} to {max(ratios):.3f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
