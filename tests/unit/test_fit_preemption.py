"""`fit` with ResumeCallback hears of preemption and tells the supervisor its steps."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import tensorflow as tf
from helpers.fake_metadata import FakeMetadata

import resumable_tf as rtf
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.supervising.heartbeat import (
    HEARTBEAT_VARIABLE,
    create_heartbeat_file,
    read_beat,
)

NUM_BATCHES = 1_000_000  # Nobody waits for the last one.


def test_fit_saves_and_stops_when_the_metadata_server_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "heartbeat")
    create_heartbeat_file(path)
    monkeypatch.setenv(HEARTBEAT_VARIABLE, path)
    monkeypatch.delenv("NO_GCE_CHECK")
    tf.keras.utils.set_random_seed(3)
    model = tf.keras.Sequential([tf.keras.layers.Input((1,)), tf.keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    ones = tf.ones((1, 1))
    data = tf.data.Dataset.from_tensors((ones, ones)).repeat(NUM_BATCHES)
    handler = signal.getsignal(signal.SIGTERM)
    with FakeMetadata() as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.host)

        class Preempt(tf.keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: object = None) -> None:
                if batch == 3:
                    server.values["instance/preempted"] = "TRUE"

        resume = rtf.ResumeCallback(str(tmp_path / "run"))
        with pytest.raises(rtf.Preempted, match="preempted: saved step") as caught:
            model.fit(data, callbacks=[Preempt(), resume], shuffle=False, verbose=0)
    assert caught.value.code == 75
    assert 3 < caught.value.step < NUM_BATCHES
    (info,) = rtf.Checkpointer(str(tmp_path / "run")).checkpoints()
    assert info.step == caught.value.step
    beat = read_beat(path)
    assert 1 <= beat.step <= caught.value.step
    assert not beat.is_training
    assert signal.getsignal(signal.SIGTERM) is handler


def test_fit_is_preempted_although_the_run_directory_can_not_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The fast tier has the state: that is no crash."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("injected")

    monkeypatch.setattr(Tier, "copy", fail)
    model = tf.keras.Sequential([tf.keras.layers.Input((1,)), tf.keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    ones = tf.ones((1, 1))
    data = tf.data.Dataset.from_tensors((ones, ones)).repeat(NUM_BATCHES)

    class Stop(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            if batch == 3:
                signal.raise_signal(signal.SIGTERM)

    fast = rtf.FastTier(str(tmp_path / "fast"))
    options = rtf.SaveOptions(fast_tier=fast, on_storage_error="continue")
    resume = rtf.ResumeCallback(str(tmp_path / "run"), options=options)
    with pytest.raises(rtf.Preempted, match="SIGTERM: saved step") as caught:
        model.fit(data, callbacks=[Stop(), resume], shuffle=False, verbose=0)
    (info,) = rtf.Checkpointer(str(tmp_path / "fast")).checkpoints()
    assert info.step == caught.value.step
    assert f"copy of step {info.step}" in caplog.text
    assert "injected" in caplog.text


def test_a_long_validation_is_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "heartbeat")
    create_heartbeat_file(path)
    monkeypatch.setenv(HEARTBEAT_VARIABLE, path)
    model = tf.keras.Sequential([tf.keras.layers.Input((1,)), tf.keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    ones = tf.ones((1, 1))
    data = tf.data.Dataset.from_tensors((ones, ones)).repeat(3)
    seen: dict[str, list[tuple[int | None, bool]]] = {}

    class Look(tf.keras.callbacks.Callback):
        def see(self, name: str) -> None:
            beat = read_beat(path)
            seen.setdefault(name, []).append((beat.step, beat.is_training))

        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            self.see(f"batch {batch}")

        def on_test_begin(self, logs: object = None) -> None:
            self.see("validation")

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            self.see("end")

    callbacks = [Look(), rtf.ResumeCallback(str(tmp_path / "run"))]
    settings = {"epochs": 2, "shuffle": False, "verbose": 0}
    model.fit(data, validation_data=data, callbacks=callbacks, **settings)
    assert seen["validation"] == seen["end"] == [(3, False), (6, False)]
    assert seen["batch 0"] == [(None, False), (3, False)]
    assert seen["batch 1"] == [(1, True), (4, True)]
