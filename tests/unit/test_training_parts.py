"""The parts of the training loop, each alone."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.errors import DeviceError, UsageError
from resumable_tf.notices import tpu_node
from resumable_tf.state import TrainState
from resumable_tf.training.cluster_task import cluster_task
from resumable_tf.training.config import TrainConfig
from resumable_tf.training.event_log import EventLog, _complete_records
from resumable_tf.training.hooks import Evaluate, is_evaluation_owed
from resumable_tf.training.loop import CallResult, LoopPlan
from resumable_tf.training.metrics_log import MetricsLog
from resumable_tf.training.optimizer import FusedAdam, WarmupSchedule
from resumable_tf.training.run import _Session
from resumable_tf.training.stop_signal import StopSignal
from resumable_tf.training.strategy import Topology, make_strategy, topology_of


def test_schedule_is_the_papers_formula() -> None:
    dim, warmup = 512, 4000
    schedule = WarmupSchedule((dim * warmup) ** -0.5, warmup_steps=warmup)
    for step in (1, 100, 3999, 4000, 4001, 100_000):
        expected = dim**-0.5 * min(step**-0.5, step * warmup**-1.5)
        # The schedule is computed in float32.
        assert float(schedule(step - 1)) == pytest.approx(expected, rel=1e-6)


def test_linear_schedule_rises_to_its_peak_and_ends_at_zero() -> None:
    schedule = WarmupSchedule(2e-3, warmup_steps=10, decay_steps=100)
    rates = [float(schedule(step)) for step in range(110)]
    assert np.argmax(rates) == 9
    assert max(rates) == pytest.approx(2e-3)
    assert 0 < rates[99] < rates[98]
    assert rates[100:] == [0.0] * 10


def test_schedule_that_ends_before_its_warm_up_is_refused() -> None:
    with pytest.raises(ValueError, match="must be larger than warmup_steps 10"):
        WarmupSchedule(1e-3, warmup_steps=10, decay_steps=10)


def test_fused_adam_gives_the_updates_of_keras_adam() -> None:
    start = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    results = []
    for kind in (FusedAdam, tf.keras.optimizers.Adam):
        variable = tf.Variable(start)
        optimizer = kind(0.01, beta_1=0.9, beta_2=0.98, epsilon=1e-9)
        optimizer.build([variable])
        for step in range(20):
            gradient = tf.constant(np.sin(start + step), tf.float32)
            optimizer.apply_gradients([(gradient, variable)])
        results.append(variable.numpy())
        assert int(optimizer.iterations) == 20
    # The fused kernel forms the same terms in another order: float32 rounding.
    np.testing.assert_allclose(results[0], results[1], rtol=2e-5, atol=1e-6)


@given(
    start=st.integers(0, 500),
    length=st.integers(1, 300),
    per_call=st.integers(1, 40),
    breaks=st.lists(st.integers(1, 90), max_size=3),
)
def test_calls_cover_every_step_once_and_cross_no_break(
    start: int, length: int, per_call: int, breaks: list[int]
) -> None:
    plan = LoopPlan(
        stop_step=start + length,
        steps_per_call=per_call,
        breaks=breaks,
        batches=lambda step: iter(()),
        train_steps=lambda iterator, step, num: (None, None),
    )
    step = start
    while step < plan.stop_step:
        count = plan.steps_from(step)
        assert 1 <= count <= per_call
        for every in breaks:
            assert not any(s % every == 0 for s in range(step + 1, step + count))
        step += count
    assert step == plan.stop_step


def test_metrics_beyond_the_resumed_step_and_torn_lines_are_dropped(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics" / "train.jsonl"
    log = MetricsLog(str(path))
    log.open(step=0)
    for step in (10, 20, 30):
        log.append({"step": step, "loss": step / 7})
    log.flush()
    with path.open("a") as file:
        file.write('{"step": 40, "lo')
    again = MetricsLog(str(path))
    again.open(step=20)
    again.append({"step": 30, "loss": 1.5})
    again.flush()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert [line["loss"] for line in lines] == [10 / 7, 20 / 7, 1.5]


@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_metrics_that_could_not_be_written_are_written_by_the_next_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A full disk: neither a torn nor a doubled nor a missing line."""
    root = str(tmp_path) if scheme == "local" else f"memory://{tmp_path.name}"
    log = MetricsLog(f"{root}/train.jsonl", events=EventLog(f"{root}/train"))
    log.open(step=0)
    log.append({"step": 1, "loss": 0.5})
    log.flush()
    log.append({"step": 2, "loss": 0.25})
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        if scheme == "local":
            # The data is in the file already when the disk says no.
            patch.setattr(os, "fsync", _raising(full))
        else:
            patch.setattr(fsspec, "open", _raising(full))
        with pytest.raises(OSError, match="No space"):
            log.flush()
    log.append({"step": 3, "loss": 0.125})
    log.flush()
    with fsspec.open(f"{root}/train.jsonl", "rt") as file:
        assert [json.loads(line)["step"] for line in file] == [1, 2, 3]
    [events] = fsspec.open_files(f"{root}/train/events.out.tfevents.*")
    with events as file:
        records = list(_complete_records(file.read()))
    steps = [tf.compat.v1.Event.FromString(record).step for record in records]
    assert steps == [0, 1, 2, 3]


def _raising(error: OSError) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def test_metrics_on_an_object_store_are_written_whole() -> None:
    log = MetricsLog("memory://metrics-test/train.jsonl")
    log.open(step=0)
    log.append({"step": 1, "loss": 0.5})
    log.flush()
    again = MetricsLog("memory://metrics-test/train.jsonl")
    again.open(step=1)
    again.append({"step": 2, "loss": 0.25})
    again.flush()
    last = MetricsLog("memory://metrics-test/train.jsonl")
    last.open(step=5)
    assert [json.loads(line)["step"] for line in last._kept] == [1, 2]


def test_the_supervisor_hears_of_an_evaluation_before_it_begins(
    tmp_path: Path,
) -> None:
    told: list[object] = []

    def evaluate() -> tuple[float, float]:
        told.append("evaluates")
        return 0.5, 3.0

    log = MetricsLog(str(tmp_path / "eval.jsonl"))
    log.open(step=0)
    hook = Evaluate(
        log, every_steps=2, stop_step=3, evaluate=evaluate, pause=told.append
    )
    state = TrainState()
    for state.step in (1, 2, 3):
        hook(state, CallResult(state.step - 1, [0.1], [1.0]))
    assert told == [2, "evaluates", 3, "evaluates"]


def test_an_evaluation_that_is_broken_off_is_owed_until_it_is_made(
    tmp_path: Path,
) -> None:
    results = iter([None, None, (0.5, 3.0)])
    log = MetricsLog(str(tmp_path / "eval.jsonl"))
    log.open(step=0)
    hook = Evaluate(
        log,
        every_steps=2,
        stop_step=9,
        evaluate=lambda: next(results),
        pause=lambda step: None,
    )
    state = TrainState()
    state.step = 2
    hook(state, CallResult(1, [0.1], [1.0]))
    hook.evaluate(state)
    assert is_evaluation_owed(state)
    log.flush()
    assert not (tmp_path / "eval.jsonl").read_bytes()
    hook.evaluate(state)
    log.flush()
    assert json.loads((tmp_path / "eval.jsonl").read_text())["step"] == 2
    assert (is_evaluation_owed(state), state.extra) == (False, {})


def test_stop_signal_is_remembered_and_former_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert stop.requested is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested is signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("flags", "node"),
    [
        (
            {"tpu": "node-1", "tpu_zone": "z", "gcp_project": "p"},
            ("node-1", {"zone": "z", "project": "p"}),
        ),
        ({}, ("node-2", {"zone": None, "project": None})),
        ({"tpu": "local"}, None),
        ({"tpu": "grpc://10.0.0.2:8470"}, None),
    ],
)
def test_a_training_asks_for_the_node_that_its_flags_name(
    flags: dict[str, str], node: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def make(name: str, **where: object) -> None:
        asked.append((name, where))

    monkeypatch.setenv("TPU_NAME", "node-2")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setattr(tpu_node, "TpuNode", make)
    config = TrainConfig("run", strategy="tpu", **flags)
    session = SimpleNamespace(config=config, topology=Topology("tpu", 8, 0, 1))
    guard = _Session._guard(session)
    assert asked == ([] if node is None else [node])
    assert len(guard._sources) == len(asked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run_dir": ""}, "--run-dir is empty"),
        ({"preset": "huge"}, "--preset 'huge' is none of tiny, small, base, big"),
        ({"batch_size": 0}, "--batch-size 0: it must be larger than 0"),
        ({"save_every_secs": -1.0}, "--save-every-secs -1.0"),
        ({"dropout_rate": 1.0}, "--dropout-rate 1.0"),
        ({"compute_dtype": "int8"}, "--compute-dtype int8: use float32 or bfloat16"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_flag(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**{"run_dir": "somewhere", **change})


def test_unknown_strategy_and_useless_replicas_are_refused() -> None:
    with pytest.raises(UsageError, match="none of one, mirrored, multi_worker, tpu"):
        make_strategy("two")
    with pytest.raises(UsageError, match="no effect with --strategy one"):
        make_strategy("one", num_replicas=2)


def test_a_machine_without_tpu_gets_one_plain_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(DeviceError, match="this machine has no TPU"):
        make_strategy("tpu")


def test_multi_worker_without_tf_config_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UsageError, match="needs TF_CONFIG"):
        make_strategy("multi_worker")


def test_an_evaluator_is_refused_as_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"worker": ["a:1"], "evaluator": ["b:1"]}
    config = {"cluster": cluster, "task": {"type": "evaluator", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert not cluster_task(os.environ).is_chief
    with pytest.raises(UsageError, match="a 'evaluator', which does not train"):
        make_strategy("multi_worker")


@pytest.mark.parametrize(
    ("kind", "index", "worker_index"), [("chief", 0, 0), ("worker", 0, 1)]
)
def test_one_process_of_a_cluster_with_a_chief_is_the_chief(
    monkeypatch: pytest.MonkeyPatch, kind: str, index: int, worker_index: int
) -> None:
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    config = {"cluster": cluster, "task": {"type": kind, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    topology = topology_of(strategy, "multi_worker")
    assert (topology.worker_index, topology.num_workers) == (worker_index, 3)
    assert topology.is_chief == (kind == "chief")
