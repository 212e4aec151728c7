"""One call of `fit` under `ResumeCallback`: what is restored when, and saved when.

`fit` goes: callbacks' on_train_begin; for each epoch metrics are reset, on_epoch_begin
is called, then for each batch the step and on_train_batch_end; then validation and
on_epoch_end. A checkpoint inside an epoch is put back twice: before all that (the
callbacks see the right weights), and right before the first batch, since resetting
metrics and beginning an epoch a second time changed something. A checkpoint at an
epoch's end belongs to the beginning of the next epoch.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import tensorflow as tf

from resumable_tf.auditing.log import BATCH, EPOCH
from resumable_tf.auditing.switch import active_recorder
from resumable_tf.checkpoint.failures import attach
from resumable_tf.errors import SaveError
from resumable_tf.state import TrainState
from resumable_tf.state.coverage import check_function, identities
from resumable_tf.state.global_random import (
    global_random,
    global_variables,
    set_global_random,
)
from resumable_tf.state.keras_objects import is_built
from resumable_tf.state.leaf import (
    is_variable,
    replica_components,
    tensorflow_variable,
)
from resumable_tf.supervising.heartbeat import Heartbeat
from resumable_tf.training.keras.callback_states import CallbackStates
from resumable_tf.training.keras.eager_step import build_by_tracing, check_built
from resumable_tf.training.keras.fit_call import FitCall
from resumable_tf.training.keras.fit_data import FitData
from resumable_tf.training.keras.fit_ending import FitEnding
from resumable_tf.training.keras.fit_record import FitRecord
from resumable_tf.training.keras.one_fit import OneFit, digest_rows
from resumable_tf.training.keras.program_settings import ProgramSettings
from resumable_tf.training.keras.resume_line import finished_line, resume_line
from resumable_tf.training.keras.save_settings import (
    SaveSettings,
    finite_metrics,
    is_finite,
)
from resumable_tf.training.keras.training_step import slice_for_replicas, trace_step
from resumable_tf.training.keras.validation_data import ValidationData
from resumable_tf.training.keras.validation_source import ValidationSource
from resumable_tf.training.preemption import Preempted, PreemptionGuard

_log = logging.getLogger(__name__)
_LARGE_POSITION = 4 << 20


class FitSession:
    """Restores and saves one call of `fit`."""

    def __init__(
        self, call: FitCall, others: Sequence[Any], settings: SaveSettings
    ) -> None:
        """Takes the running `fit`.

        Args:
            call: The running `fit`.
            others: All callbacks but our own.
            settings: When and where to save.
        """
        self._call = call
        self._others = list(others)
        self._settings = settings
        self._model = call.model
        self._checkpointer = settings.checkpointer()
        self._heartbeat = Heartbeat.from_environment()
        self._stop = None
        if settings.handles_signals:
            self._stop = PreemptionGuard(is_running=call.is_running)
        self._record = FitRecord()
        self._one = OneFit(call, root=self._checkpointer.storage.root)
        self._cleanup = ExitStack()
        self._restored: dict[str, Any] | None = None
        self._values: list[tuple[Any, Any]] = []
        self._done_before = 0
        self._is_postponed = self._has_ended = False
        self._has_warned = False
        self._has_warned_of_size = False
        self._callbacks: CallbackStates | None = None

    def begin(self) -> None:
        """Builds everything, restores the newest checkpoint and lets `fit` continue.

        Raises:
            StateError: If something that changes in training can't be saved.
        """
        self._one.check_first()
        self._source = ValidationSource(self._call)
        self._program = ProgramSettings(self._model)
        self._prepare_cleanup()
        self._heartbeat.start()
        call = self._call
        self._data = FitData(call)
        self.validation = ValidationData(call)
        if not call.strategy.__class__.__name__.startswith("_Default"):
            self._cleanup.callback(slice_for_replicas(call))
        step = trace_step(call, self._data.element_spec)
        roots = {"model": self._model, "fit": self._record}
        optimizer = getattr(self._model, "optimizer", None)
        is_known = step is not None or build_by_tracing(call, self._data.element_spec)
        # Tracing has built the optimizers that the step uses; Keras makes one more
        # where a model with its own train_step is compiled without.
        if optimizer is not None and (not is_known or is_built(optimizer)):
            roots["optimizer"] = optimizer
        if not call.is_keras_3:
            roots["train_counter"] = self._model._train_counter
        data = _Described(self._data, call)
        self._state = TrainState(data=data, global_random=False, **roots)
        self._state.also_saved = global_variables  # In the record.
        self._check(step, is_known=is_known)
        began = self._settings.options.elapsed()
        info = self._checkpointer.restore_or_initialize(self._state)
        self._data.install(on_first_batch=self._restore_again)
        if info is not None:
            line = self._continue()
            took = self._settings.options.elapsed() - began
            self._settings.say(f"{line} ({took:.1f} s)")
        if self._stop is not None:
            self._cleanup.enter_context(self._stop)

    def _prepare_cleanup(self) -> None:
        """Notes what is given back when `fit` ends, the last of it first."""
        model = self._model
        self._cleanup.callback(self._checkpointer.close)
        self._cleanup.callback(self._heartbeat.pause)
        if self._call.is_keras_3:
            self._cleanup.callback(setattr, model, "_initial_epoch", None)
        else:
            # Of an interrupted fit it stays, and the next one would read on there.
            self._cleanup.callback(vars(model).pop, "_eval_data_handler", None)
        before = {
            "_should_eval": self._source.before_creation,
            "evaluate": self._source.before_test,
        }
        ending = FitEnding(self._call, self.abandon, before=before)
        self._cleanup.callback(ending.forget)
        ending.watch()

    def begin_epoch(self, epoch: int) -> None:
        """Notes the epoch; the first one gets the callbacks' state back."""
        self._epoch = epoch
        done, self._done_before = self._done_before, 0
        self._epoch_start = self._state.step - done
        self.restore_callbacks()

    def put_back_random(self) -> None:
        """Undoes what callbacks have drawn at the beginning of a resumed training."""
        if self._restored is not None:
            set_global_random(self._restored["random"])

    def restore_callbacks(self) -> None:
        """Follows the callbacks from now on, and puts back what they had, once."""
        if self._callbacks is not None:
            return
        # All of them have had their on_train_begin by now.
        self._callbacks = CallbackStates(
            self._others, covered=self._is_covered, began=self._settings.began
        )
        if self._restored is not None:
            self._callbacks.apply(self._restored["callbacks"])
            if not self._values:
                if self._call.is_keras_3 or self._has_ended:
                    # The others' on_train_begin has drawn once more. tf_keras has made
                    # the epoch's iterator by now, which may draw too.
                    set_global_random(self._restored["random"])
                self._note_restored()

    def end_batch(self, batch: int, logs: Any) -> None:
        """Saves if it is due and can be exact here.

        Args:
            batch: Index of the last batch that is done.
            logs: What the step returned.

        Raises:
            Preempted: If the process was asked to stop; the state is saved.
        """
        done = min(batch + 1, self._data.num_batches or batch + 1)
        self._state.step = self._epoch_start + done
        self._note_step(logs, BATCH)
        self._heartbeat.beat(self._state.step)
        is_asked = self._stop is not None and self._stop.requested is not None
        is_due = self._is_postponed or is_asked
        is_due = is_due or self._checkpointer.should_save(
            self._state.step, epoch=self._epoch
        )
        if not is_due:
            self._checkpointer.raise_failure()
            return
        self._is_postponed = True
        if self._can_save_inside(done) and is_finite(logs):
            self._save(self._epoch, done)

    def pause(self) -> None:
        """Tells the supervisor that other work than steps begins, such as validation.

        The end of the next batch ends the pause.
        """
        self._heartbeat.pause(self._state.step)

    def end_epoch(self, epoch: int, logs: Any) -> None:
        """Saves the beginning of the next epoch, if it is due or training ends.

        Args:
            epoch: Index of the epoch that is done.
            logs: Its metrics.

        Raises:
            Preempted: If the process was asked to stop; the state is saved.
        """
        self._data.end_epoch()
        self._note_step(logs, EPOCH)
        is_last = epoch + 1 >= self._call.epochs or self._model.stop_training
        metrics = finite_metrics(logs)
        is_due = self._is_postponed or self._settings.saves_epochs or is_last
        is_due = is_due or self._checkpointer.should_save(
            self._state.step, epoch=epoch + 1, metrics=metrics
        )
        if is_due and is_finite(logs):
            self._save(epoch + 1, 0, metrics=metrics, is_last=is_last)

    def complete(self) -> None:
        """Waits for the last save; the fit has come to its end."""
        self._cleanup.close()
        self._one.completed()

    def abandon(self, error: BaseException) -> None:
        """Gives everything back, whatever has ended the fit.

        Args:
            error: What it ends with; a save that fails is attached to it.
        """
        try:
            self._cleanup.close()
        except SaveError as save_error:
            attach(error, save_error)

    def _check(self, step: Any, *, is_known: bool) -> None:
        """Refuses a program of which something would be lost at a resume.

        Raises:
            StateError: If there is something.
        """
        # The record holds the global generators, which the step may draw from.
        variables = [*self._state.variables(), *global_variables()]
        self._known = identities(tensorflow_variable(v) for v in variables)
        # A setting of tf_keras in the form of a variable.
        self._known.add(id(getattr(self._model, "_steps_per_execution", None)))
        if step is not None:
            check_function(step, covered=self._is_covered)
        elif not is_known:
            check_built(self._model)

    def _is_covered(self, variable: Any) -> bool:
        if not is_variable(variable):
            return False
        return id(tensorflow_variable(variable)) in self._known

    def _continue(self) -> str:
        """Lets `fit` begin where the restored checkpoint was taken; says where."""
        restored = self._restored = dict(self._record.value)
        epoch, batch = self._state.extra["epoch"], self._state.extra["batch"]
        set_global_random(restored["random"])
        self.validation.resume(restored.get("validation", {}))
        self._program.compare(restored.get("settings", {}))
        self._source.resume(restored.get("validation_source", {}))
        epochs, step = self._call.epochs, self._state.step
        was_stopped = restored["is_stopped"]
        self._one.check_epochs(epoch)
        self._data.begin_at(epochs if was_stopped else epoch)
        self._has_ended = was_stopped or epoch >= epochs
        if self._has_ended:
            return finished_line(
                step, epoch=epoch, epochs=epochs, was_stopped=was_stopped
            )
        self._data.resume(restored["data"], batch=batch)
        self._done_before = batch
        if batch:
            parts = map(replica_components, self._state.variables())
            self._values = [(part, tf.identity(part)) for part in chain(*parts)]
        num_batches = self._data.num_batches
        return resume_line(
            step, epoch=epoch, batch=batch, epochs=epochs, num_batches=num_batches
        )

    def _restore_again(self) -> None:
        """Undoes what beginning the epoch a second time has changed."""
        for variable, value in self._values:
            variable.assign(value)
        self._values = []
        if self._callbacks is not None and self._restored is not None:
            self._callbacks.apply(self._restored["callbacks"])
            set_global_random(self._restored["random"])
        self._note_restored()

    def _note_restored(self) -> None:
        """Lets an audit have the callbacks as they are put back."""
        recorder = active_recorder()
        if recorder is not None:
            recorder.live_restored(self._state)

    def _note_step(self, logs: Any, phase: str) -> None:
        """Lets an audit, if one is under way, have the state after a step."""
        recorder = active_recorder()
        if recorder is not None:
            wait = functools.partial(self._checkpointer.wait, for_due=False)
            recorder.end_step(
                self._state, wait=wait, phase=phase, logs=logs, has_extra=False
            )

    def _can_save_inside(self, done: int) -> bool:
        """Returns whether more batches follow in this epoch, for certain."""
        num_batches = self._data.num_batches
        if num_batches is None and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "Keras does not know the length of the first epoch, so nothing is "
                "saved before its end; pass steps_per_epoch to fit, or use "
                "dataset.apply(tf.data.experimental.assert_cardinality(n))"
            )
        return (
            num_batches is not None
            and done < num_batches
            and not self._model.stop_training
        )

    def _save(
        self,
        epoch: int,
        batch: int,
        *,
        metrics: Mapping[str, float] | None = None,
        is_last: bool = False,
    ) -> None:
        """Saves the state before a batch; the last one must succeed.

        Raises:
            Preempted: If the process was asked to stop.
        """
        if self._callbacks is None:
            return
        position = self._data.capture(batch=batch)
        self._warn_of_size(len(position["position"]["state"]))
        self._record.value = {
            "data": position,
            "validation": self.validation.capture(),
            "validation_source": self._source.capture(),
            "callbacks": self._callbacks.capture(),
            "random": global_random(),
            "settings": self._program.capture(),
            "is_stopped": bool(self._model.stop_training),
        }
        self._state.extra = {"epoch": epoch, "batch": batch}
        if self._stop is not None:
            self._stop.announce(self._state.step, self._checkpointer)
        self._is_postponed = False
        if self._stop is None or self._stop.requested is None:
            save = self._checkpointer.save if is_last else self._checkpointer.save_due
            save(self._state, metrics=metrics)
            return
        self._stop.save(self._state, self._checkpointer, metrics=metrics)
        stopped = Preempted(
            f"{self._stop.requested.name}: saved step {self._state.step} and stopped. "
            "Run the same program to continue.",
            step=self._state.step,
        )
        # What may fail by now is a copy or an earlier save: this one is good.
        self.abandon(stopped)
        raise stopped

    def _warn_of_size(self, size: int) -> None:
        if size > _LARGE_POSITION and not self._has_warned_of_size:
            self._has_warned_of_size = True
            _log.warning(
                "the position in the data takes %.1f MB of each checkpoint, since it "
                "holds the shuffle buffers; shuffle indices or file names instead of "
                "examples, or use a smaller buffer",
                size / 1e6,
            )


class _Described:
    """What a checkpoint says of the data of a `fit`, and must find again."""

    def __init__(self, data: FitData, call: FitCall) -> None:
        self._data, self._call = data, call
        self._rows = digest_rows(call)

    def describe(self) -> dict[str, Any]:
        """Returns JSON values that are equal for equal data."""
        described = self._data.describe()
        if not self._call.is_keras_3 and self._rows is not None:
            # tf_keras repeats arrays as often as there are epochs: that may change.
            repeated = ["_RepeatDataset", {"_count": self._call.epochs}]
            described["pipeline"] = [
                operation
                for operation in described["pipeline"]
                if operation != repeated
            ]
        return {**described, "rows": self._rows}
