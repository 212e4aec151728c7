"""Hooks of the training loop: metrics, validation and progress.

    hooks = [LogMetrics(log, every_steps=10), Evaluate(...), ShowProgress(...)]

A hook is called after each compiled call with the state and what the call did.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.state import TrainState
from resumable_tf.training.loop import CallResult
from resumable_tf.training.metrics_log import MetricsLog
from resumable_tf.training.progress import Progress

WRITTEN_KEY = "metrics_written"
"""Key in `state.extra`: number and checksum of the lines of each file."""
_WINDOW_KEY = "metrics_window"
_OWED_KEY = "evaluation_owed"
_RETRY_SECS = 30.0


class LogMetrics:
    """Writes the mean loss of each window of steps as one line.

    A window that a save cuts is part of the checkpoint, so that its line is the same
    after a resume.
    """

    def __init__(
        self,
        log: MetricsLog,
        *,
        every_steps: int,
        learning_rate: Callable[[int], float],
    ) -> None:
        """Keeps where and how often to write.

        Args:
            log: The file.
            every_steps: Steps a window.
            learning_rate: Maps completed steps to the rate of the next step.
        """
        self._log = log
        self._every_steps = every_steps
        self._learning_rate = learning_rate

    def __call__(self, state: TrainState, result: CallResult) -> None:
        """Adds the steps of a call to the window."""
        loss_sum, tokens = state.extra.get(_WINDOW_KEY, (0.0, 0.0))
        step = result.first_step
        for loss, count in zip(result.losses, result.num_tokens, strict=True):
            step += 1
            loss_sum, tokens = loss_sum + loss * count, tokens + count
            if step % self._every_steps == 0:
                self._log.append(
                    {
                        "step": step,
                        "loss": loss_sum / tokens,
                        "num_tokens": tokens,
                        "learning_rate": self._learning_rate(step - 1),
                    }
                )
                loss_sum, tokens = 0.0, 0.0
        state.extra[_WINDOW_KEY] = [loss_sum, tokens]


class Evaluate:
    """Measures the validation loss at multiples of a number of steps and at the end.

    One that a stop breaks off leaves nothing behind but a word in the checkpoint of its
    step, so that the next start makes it up before it goes on.
    """

    def __init__(
        self,
        log: MetricsLog,
        *,
        every_steps: int | None,
        stop_step: int,
        evaluate: Callable[[], tuple[float, float] | None],
        pause: Callable[[int], None],
    ) -> None:
        """Keeps what to do and when.

        Args:
            log: The file.
            every_steps: Evaluate at multiples of this; None only at the end.
            stop_step: The end.
            evaluate: Returns the loss and the tokens, None if it was broken off.
            pause: Gets the step before it begins: no step follows for a while.
        """
        self._log = log
        self._every_steps = every_steps
        self._stop_step = stop_step
        self._evaluate = evaluate
        self._pause = pause

    def __call__(self, state: TrainState, result: CallResult) -> None:
        """Evaluates if it is due."""
        every = self._every_steps
        is_due = every is not None and state.step % every == 0
        if is_due or state.step == self._stop_step:
            self.evaluate(state)

    def evaluate(self, state: TrainState) -> None:
        """Evaluates, or notes that this is still to be done."""
        self._pause(state.step)
        measured = self._evaluate()
        if measured is None:
            state.extra[_OWED_KEY] = True
            return
        state.extra.pop(_OWED_KEY, None)
        loss, num_tokens = measured
        self._log.append({"step": state.step, "loss": loss, "num_tokens": num_tokens})


def is_evaluation_owed(state: TrainState) -> bool:
    """Returns whether the evaluation of this step was broken off."""
    return _OWED_KEY in state.extra


class FlushMetrics:
    """Makes metrics durable before a save, which then says how many there are.

    Local files are written after each call. Those on an object store are stored by the
    writer's thread, before it writes the checkpoint: see `note_metrics`.

    Where training goes on over failures of the storage, lines that can't be written
    wait for the next try, and nothing is saved meanwhile. At the end of training they
    must be written.
    """

    def __init__(
        self,
        *logs: MetricsLog,
        checkpointer: Checkpointer,
        stop_step: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keeps the files, and who saves."""
        self._logs = logs
        self._checkpointer = checkpointer
        self._stop_step = stop_step
        self._clock = clock
        self._retry_at_secs: float | None = None

    def __call__(self, state: TrainState, result: CallResult) -> None:
        """Flushes the local files.

        Raises:
            OSError: If that fails and the training must not go on.
        """
        now, is_last = self._clock(), state.step >= self._stop_step
        if self._retry_at_secs is None or now >= self._retry_at_secs or is_last:
            try:
                for log in self._logs:
                    if log.is_local:
                        log.flush()
                self._retry_at_secs = None
            except OSError as error:
                if is_last:
                    raise
                self._checkpointer.failures.take(error, step=state.step)
                self._retry_at_secs = now + _RETRY_SECS
        if self._retry_at_secs is not None:
            self._checkpointer.put_off(state)


def note_metrics(state: TrainState, *logs: MetricsLog) -> Callable[[], None]:
    """Lets a checkpoint say what its metrics are; for `SaveOptions.before_save`.

    Args:
        state: Gets number and checksum of the lines.
        *logs: The files; local ones were flushed.

    Returns:
        What stores those on an object store.
    """
    remote = [log.take() for log in logs if not log.is_local]
    state.extra[WRITTEN_KEY] = {log.name: log.written() for log in logs}

    def store() -> None:
        for store_one in remote:
            store_one()

    return store


class ShowProgress:
    """Shows the state of training."""

    def __init__(self, progress: Progress, checkpointer: Checkpointer) -> None:
        """Keeps the display."""
        self._progress = progress
        self._checkpointer = checkpointer

    def __call__(self, state: TrainState, result: CallResult) -> None:
        """Updates the display."""
        self._progress.update(
            state.step,
            loss=result.losses[-1],
            num_tokens=sum(result.num_tokens),
            last_checkpoint=self._checkpointer.committed_step,
            failures=self._checkpointer.failures,
        )
