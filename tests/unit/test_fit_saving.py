"""The options of `ResumeCallback`: policies over a fit's metrics, and full disks."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import resumable_tf as rtf
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.errors import SaveError
from resumable_tf.training.keras.save_settings import finite_metrics

pytestmark = pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
EPOCHS, BATCHES = 5, 4


def fit(
    run_dir: Path, *, others: Sequence[Any] = (), **arguments: Any
) -> tuple[Any, list[np.ndarray]]:
    tf.keras.utils.set_random_seed(2)
    rows = np.random.default_rng(1).normal(size=(BATCHES * 4, 3)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((rows, rows[:, :1])).batch(4)
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(3,))])
    model.compile(tf.keras.optimizers.SGD(0.9), "mse")  # Too fast to get better always.
    callback = rtf.ResumeCallback(str(run_dir), **arguments)
    callbacks = [*others, callback]
    history = model.fit(dataset, epochs=EPOCHS, callbacks=callbacks, verbose=0)
    return history.history, [np.asarray(weight) for weight in model.weights]


@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`:UserWarning")
def test_the_best_epoch_by_its_loss_is_saved_and_kept(tmp_path: Path) -> None:
    lower = {"is_higher_better": False}
    options = rtf.SaveOptions(
        save_when=[rtf.OnImprovement("loss", **lower)],
        keep=[rtf.KeepBest(1, "loss", **lower)],
    )
    history, _ = fit(tmp_path, keep_last=1, options=options)
    kept = rtf.Checkpointer(str(tmp_path)).checkpoints()
    best = int(np.argmin(history["loss"]))
    steps = {(best + 1) * BATCHES, EPOCHS * BATCHES}
    assert {info.step for info in kept} == steps
    assert kept[0].manifest.metrics == {"loss": pytest.approx(history["loss"][best])}


@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`:UserWarning")
def test_fit_goes_on_over_a_full_disk_but_for_its_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = fit(tmp_path / "whole")
    write, failing = Tier.write, set(range(BATCHES * (EPOCHS - 1) + 1))

    def write_or_fail(tier: Tier, snapshot: Any, draft: Any) -> Any:
        if draft.step in failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(tier, snapshot, draft)

    monkeypatch.setattr(Tier, "write", write_or_fail)
    options = rtf.SaveOptions(on_storage_error="continue")
    _, found = fit(tmp_path / "run", save_every_steps=3, options=options)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert rtf.Checkpointer(str(tmp_path / "run")).latest().step == EPOCHS * BATCHES
    failing.add(EPOCHS * BATCHES)
    with pytest.raises(SaveError, match="No space left on device"):
        fit(tmp_path / "failed", options=options)


class _AskAfterSave(tf.keras.callbacks.Callback):
    """Asks for the end at a batch, when the save of the batch before is over."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == self.batch:
            for thread in threading.enumerate():
                if thread.name == f"save-{batch}":
                    thread.join()
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`:UserWarning")
def test_fit_tries_its_last_save_after_one_that_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Tier.write

    def write_or_fail(tier: Tier, snapshot: Any, draft: Any) -> Any:
        if draft.step == 2:
            raise OSError(errno.EIO, "injected")
        return write(tier, snapshot, draft)

    monkeypatch.setattr(Tier, "write", write_or_fail)
    with pytest.raises(rtf.Preempted, match="SIGTERM: saved step 3"):
        fit(tmp_path, save_every_steps=2, others=[_AskAfterSave(2)])
    assert [info.step for info in rtf.Checkpointer(str(tmp_path)).checkpoints()] == [3]


@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`:UserWarning")
def test_fit_takes_an_automatic_interval(tmp_path: Path) -> None:
    ticks = [0.0]

    def elapsed() -> float:
        ticks[0] += 4.0
        return ticks[0]

    options = rtf.SaveOptions(elapsed=elapsed)
    fit(tmp_path, save_every_steps="auto", keep_last=None, options=options)
    steps = [info.step for info in rtf.Checkpointer(str(tmp_path)).checkpoints()]
    assert 2 <= len(steps) < EPOCHS * BATCHES
    assert 1 < steps[0] < 10  # After half a minute of that clock.
    assert steps[-1] == EPOCHS * BATCHES


def test_only_single_finite_numbers_of_the_logs_are_metrics() -> None:
    logs = {
        "loss": tf.constant(0.5),
        "f1": np.array([0.1, 0.2]),
        "bad": float("nan"),
        "steps": 3,
        "name": "x",
    }
    assert finite_metrics(logs) == {"loss": 0.5, "steps": 3.0}
    assert finite_metrics(None) == {}
