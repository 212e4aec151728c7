"""Trains the translation Transformer of a run directory to its end.

    result = train(TrainConfig(run_dir="runs/demo", preset="tiny"))
    result.step, result.resumed_from

The same call on the same directory continues where the last one ended, however it
ended, bit for bit.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from resumable_tf.auditing.switch import active_recorder
from resumable_tf.checkpoint import Checkpointer, CheckpointInfo
from resumable_tf.data.dataset import RecordDataset, evaluation_batches
from resumable_tf.data.pairs import VALIDATION
from resumable_tf.data.prepare import PrepareSettings, prepare_records
from resumable_tf.data.record_files import RECORDS_FILE, RecordSet
from resumable_tf.errors import NoCheckpointError
from resumable_tf.notices.metadata import metadata_pollers
from resumable_tf.notices.tpu_node import node_pollers
from resumable_tf.state import TrainState
from resumable_tf.state.leaf import host_device
from resumable_tf.supervising.heartbeat import Heartbeat
from resumable_tf.training.agreement import HostAgreement
from resumable_tf.training.config import TrainConfig
from resumable_tf.training.event_log import EventLog
from resumable_tf.training.hooks import (
    WRITTEN_KEY,
    Evaluate,
    FlushMetrics,
    LogMetrics,
    ShowProgress,
    is_evaluation_owed,
    note_metrics,
)
from resumable_tf.training.last_save import save_last
from resumable_tf.training.loop import LoopPlan, run_loop
from resumable_tf.training.lost_hosts import naming_lost_hosts
from resumable_tf.training.metrics_log import MetricsLog
from resumable_tf.training.preemption import PreemptionGuard
from resumable_tf.training.program import (
    build_program,
    evaluation_settings,
    set_determinism,
)
from resumable_tf.training.progress import Progress
from resumable_tf.training.step import make_evaluate
from resumable_tf.training.strategy import Topology, make_strategy, topology_of

logger = logging.getLogger(__name__)

_POLL_SECS = 1.0


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended.

    Attributes:
        step: Completed steps.
        resumed_from: Step of the checkpoint it began with, None for a new run.
        was_finished: Whether there was nothing left to do.
        run_dir: The run directory.
        phase_secs: Seconds of each phase before the first step.
    """

    step: int
    resumed_from: int | None
    was_finished: bool
    run_dir: str
    phase_secs: dict[str, float]


class _Phases:
    """Measures the phases of a start."""

    def __init__(self) -> None:
        self.secs: dict[str, float] = {}
        self._last = time.monotonic()

    def done(self, name: str) -> None:
        now = time.monotonic()
        self.secs[name] = round(now - self._last, 3)
        self._last = now


def train(config: TrainConfig) -> TrainResult:
    """Trains to the config's last step, continuing what is in the run directory.

    Args:
        config: What to train, and where.

    Returns:
        How it ended.

    Raises:
        ConfigMismatchError: If the run was begun with other settings.
        DataMismatchError: If it was begun with other data, seed or batch size.
        DeviceError: If the strategy's devices are not there.
        HostLostError: If another host of the training is gone.
        NonFiniteLossError: If the loss becomes NaN or infinite.
        Preempted: If the machine or a signal asked to stop; the state is saved.
    """
    Heartbeat.from_environment().start()
    if config.strategy not in ("multi_worker", "tpu"):
        return _train(config)
    with naming_lost_hosts(config.run_dir):
        return _train(config)


def _train(config: TrainConfig) -> TrainResult:
    phases = _Phases()
    strategy = make_strategy(
        config.strategy, num_replicas=config.num_replicas, tpu=config.tpu_settings
    )
    topology = topology_of(strategy, config.strategy)
    set_determinism(config)
    phases.done("devices")
    records = _open_records(config, topology)
    phases.done("records")
    session = _Session(config, strategy, topology, records)
    phases.done("build")
    with session.checkpointer as checkpointer:
        return session.run(checkpointer, phases)


def _open_records(config: TrainConfig, topology: Topology) -> RecordSet:
    settings = PrepareSettings(
        vocab_size=config.vocab_size or config.recipe.vocab_size,
        target_length=config.row_length or config.recipe.row_length,
    )
    while not topology.is_chief and not _is_prepared(config.records_dir):
        time.sleep(_POLL_SECS)
    return prepare_records(config.data, config.records_dir, settings=settings)


def _is_prepared(directory: str) -> bool:
    path = f"{directory.rstrip('/')}/records.json"
    return bool(tf.io.gfile.exists(path))


class _Session:
    """The live objects of one start."""

    def __init__(
        self, config: TrainConfig, strategy: Any, topology: Topology, records: RecordSet
    ) -> None:
        self.config = config
        self.strategy = strategy
        self.topology = topology
        self.dataset = RecordDataset(
            records, global_batch_size=config.global_batch_size, seed=config.seed
        )
        vocab_size = records.load_tokenizer().vocab_size
        model_config = config.model_config(vocab_size)
        self.program = program = build_program(config, model_config, strategy)
        self.state = TrainState(
            model=program.model,
            optimizer=program.optimizer,
            data=self.dataset,
            global_random=False,  # All that is random is a function of the step.
        )
        self.checkpointer = Checkpointer(
            config.run_dir,
            every_steps=config.save_every_steps,
            every_secs=config.save_period_secs,
            keep_last=config.keep_last,
            config=config.fingerprinted(model_config),
            options=dataclasses.replace(
                config.save_options,
                verbose=False,  # The next batch is said too.
                before_save=lambda state: note_metrics(
                    state, self.train_log, self.eval_log
                ),
            ),
        )
        metrics = f"{config.run_dir.rstrip('/')}/metrics"
        self.train_log, self.eval_log = (
            MetricsLog(
                f"{metrics}/{name}.jsonl",
                events=EventLog(f"{metrics}/{name}") if topology.is_chief else None,
            )
            for name in ("train", "eval")
        )

    def run(self, checkpointer: Checkpointer, phases: _Phases) -> TrainResult:
        found = self._restore(checkpointer)
        phases.done("restore")
        config, start = self.config, self.state.step
        # Where the records are may change; what is in them is checked by fingerprint.
        self.state.extra["records"] = config.records_dir
        if self.topology.is_chief:
            written = self.state.extra.get(WRITTEN_KEY, {})
            for log in (self.train_log, self.eval_log):
                log.open(step=start, written=written.get(log.name))
        is_owed = is_evaluation_owed(self.state)
        result = TrainResult(
            step=max(start, config.last_step),
            resumed_from=None if found is None else found.step,
            was_finished=start >= config.last_step and not is_owed,
            run_dir=config.run_dir,
            phase_secs=phases.secs,
        )
        saver = checkpointer if self.topology.is_chief else None
        if result.was_finished:
            if start > 0 and saver is not None:
                # The last save may have come as far as the fast tier only.
                save_last(self.state, saver)
            return dataclasses.replace(result, step=start)
        if found is not None:
            logger.info(
                "resumed from step %d in %.1f s; next batch %d",
                start,
                sum(phases.secs.values()),
                start,
            )
        with (
            self._guard() as guard,
            Progress(start_step=start, stop_step=config.last_step) as progress,
        ):
            evaluate = self._evaluation(guard)
            self._make_up(evaluate, guard, saver)
            hooks = self._hooks(checkpointer, progress, evaluate)
            run_loop(self._plan(phases), self.state, saver, hooks=hooks, guard=guard)
        return result

    def _make_up(
        self, evaluate: Evaluate, guard: PreemptionGuard, saver: Checkpointer | None
    ) -> None:
        """Evaluates the restored step, where a stop has kept that from being done."""
        if not is_evaluation_owed(self.state):
            return
        evaluate.evaluate(self.state)
        guard.after_step(self.state, saver)
        if saver is not None and self.state.step >= self.config.last_step:
            # No step follows that would be saved with it.
            if self.eval_log.is_local:
                self.eval_log.flush()
            saver.save(self.state).result()
            saver.wait()

    def _guard(self) -> PreemptionGuard:
        has_others = self.topology.num_workers > 1
        tpu, of_node = self.config.tpu_settings, []
        if tpu is not None and tpu.needs_api:
            of_node = node_pollers(tpu.name, project=tpu.project, zone=tpu.zone)
        return PreemptionGuard(
            grace_secs=self.config.grace_secs,
            sources=[*metadata_pollers(), *of_node],
            agreement=HostAgreement(self.strategy) if has_others else None,
        )

    def _restore(self, checkpointer: Checkpointer) -> CheckpointInfo | None:
        allow = self.config.allow_batch_size_change
        if self.topology.is_chief:
            return checkpointer.restore_or_initialize(
                self.state, allow_batch_size_change=allow
            )
        try:
            return checkpointer.restore(self.state, allow_batch_size_change=allow)
        except NoCheckpointError:
            return None

    def _plan(self, phases: _Phases) -> LoopPlan:
        train_steps = self.program.train_steps

        records = self.dataset.records

        def batches(step: int) -> Iterator[Any]:
            train_steps.input.check_readable(records.path_of(RECORDS_FILE))
            iterator = train_steps.input.iterate(lambda: self.dataset.from_step(step))
            phases.done("pipeline")
            train_steps.trace(iterator)
            phases.done("trace")
            return iterator  # type: ignore[no-any-return]

        def timed(iterator: Any, step: int, num_steps: int) -> tuple[Any, Any]:
            result = train_steps(iterator, step, num_steps)
            if "first call" not in phases.secs:
                phases.done("first call")
                logger.info("start, in seconds: %s", phases.secs)
            return result

        config = self.config
        breaks = [
            config.save_every_steps,
            config.fast_every_steps,
            config.eval_every_steps,
        ]
        return LoopPlan(
            stop_step=config.last_step,
            # An audit names the first step that differs.
            steps_per_call=1 if active_recorder() else config.steps_per_call,
            # An interval chosen by itself cuts no call.
            breaks=[every for every in breaks if every and every != "auto"],
            batches=batches,
            train_steps=timed,
        )

    def _evaluation(self, guard: PreemptionGuard) -> Evaluate:
        settings = evaluation_settings(self.program.model, self.config)
        evaluate = make_evaluate(self.strategy, settings)
        with tf.device(host_device()):
            batches = evaluation_batches(
                self.dataset.records,
                VALIDATION,
                batch_size=self.config.global_batch_size,
            )
        return Evaluate(
            self.eval_log,
            every_steps=self.config.eval_every_steps,
            stop_step=self.config.last_step,
            # On all hosts before the same batch.
            evaluate=lambda: evaluate(batches, lambda: guard.agreed() is not None),
            pause=guard.pause,
        )

    def _hooks(
        self, checkpointer: Checkpointer, progress: Progress, evaluate: Evaluate
    ) -> list[Any]:
        hooks: list[Any] = [
            LogMetrics(
                self.train_log,
                every_steps=self.config.log_every_steps,
                learning_rate=lambda step: float(self.program.schedule(step)),
            ),
            evaluate,
        ]
        if self.topology.is_chief:
            hooks.append(
                FlushMetrics(
                    self.train_log,
                    self.eval_log,
                    checkpointer=checkpointer,
                    stop_step=self.config.last_step,
                )
            )
            hooks.append(ShowProgress(progress, checkpointer))
        return hooks
