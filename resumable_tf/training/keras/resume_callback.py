"""Exact resume for `model.fit`.

    model.fit(dataset, epochs=10, callbacks=[
        rtf.ResumeCallback("runs/demo", save_every_steps=500),
    ])

Killed at any batch and started again, the same program continues at the batch after
the last checkpoint: same weights, same history, same decisions of the callbacks.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from resumable_tf.checkpoint import SaveOptions
from resumable_tf.errors import UsageError
from resumable_tf.storage import PathLike, path_text
from resumable_tf.training.keras.fit_call import find_fit_call
from resumable_tf.training.keras.fit_session import FitSession
from resumable_tf.training.keras.save_settings import SaveSettings


class Hooks:
    """A callback that does nothing, of the form that either Keras calls."""

    _supports_tf_logs = True

    def set_model(self, model: Any) -> None:
        """Takes nothing of it."""

    def set_params(self, params: Any) -> None:
        """Takes nothing of it."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Does nothing."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Does nothing."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Does nothing."""

    def on_test_begin(self, logs: Any = None) -> None:
        """Does nothing."""

    def on_train_end(self, logs: Any = None) -> None:
        """Does nothing."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Stands for the hooks that no callback here needs."""

    on_train_begin = on_train_batch_begin = on_batch_begin = on_batch_end = _nothing
    on_test_end = on_test_batch_begin = on_test_batch_end = _nothing
    on_predict_begin = on_predict_end = _nothing
    on_predict_batch_begin = on_predict_batch_end = _nothing

    def _implements_train_batch_hooks(self) -> bool:
        return True

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False


class _First(Hooks):
    """Stands before all other callbacks and restores what they keep."""

    def __init__(self, session: FitSession) -> None:
        self._session = session

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._session.begin_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._session.pause()

    def on_test_begin(self, logs: Any = None) -> None:
        self._session.pause()
        self._session.validation.begin_test()

    def on_train_end(self, logs: Any = None) -> None:
        self._session.restore_callbacks()


class _Last(Hooks):
    """Stands behind all other callbacks and saves."""

    def __init__(self, session: FitSession) -> None:
        self._session = session

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._session.end_batch(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._session.end_epoch(epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        self._session.complete()


class ResumeCallback(Hooks):
    """Saves the whole state of a `fit` and continues it, bit for bit.

    Wherever it stands in the list of callbacks, it restores before all others and
    saves after them.

    Example:
        >>> callback = ResumeCallback("runs/demo", save_every_steps=500)
    """

    def __init__(
        self,
        run_dir: PathLike,
        *,
        save_every_steps: int | Literal["auto"] | None = None,
        save_every_secs: float | None = None,
        keep_last: int | None = 3,
        handles_signals: bool = True,
        options: SaveOptions | None = None,
        verbose: int = 1,
    ) -> None:
        """Remembers its arguments; nothing is read or written.

        Args:
            run_dir: A path or URL; one for each `fit` of a program.
            save_every_steps: Save at each multiple of this many batches; "auto" chooses
                the interval from what a save costs.
            save_every_secs: Save when so many seconds have passed. Without any of
                the two, and without `options.save_when`, the end of each epoch is
                saved. The end of training always is.
            keep_last: Newest checkpoints to keep; None keeps what `options.keep` says,
                and all if it says nothing.
            handles_signals: Whether SIGTERM and SIGINT save, and end the process with
                exit code 75 (`Preempted`).
            options: Everything else about saving. Its policies get the metrics of each
                epoch at its end ("loss", "val_loss", ...), which the checkpoint keeps.
            verbose: 1 prints one line when a training goes on, 0 is silent; whatever
                `verbose` of `fit` is.

        Raises:
            UsageError: If the run directory is bytes, or a `Path` made of a URL.
            ValueError: If a period or number is not positive.
        """
        self._settings = SaveSettings(
            run_dir=path_text(run_dir),
            every_steps=save_every_steps,
            every_secs=save_every_secs,
            keep_last=keep_last,
            handles_signals=handles_signals,
            options=options or SaveOptions(),
            began=time.time(),
            is_verbose=bool(verbose),
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Restores the newest checkpoint, if there is one.

        Raises:
            CheckpointCorruptError: If there were checkpoints and none verifies.
            CheckpointMismatchError: If model, optimizer or callbacks are others.
            DataMismatchError: If the data or its pipeline is another.
            ConfigMismatchError: If the run has more epochs than this fit.
            StateError: If something that changes in training can't be saved.
            UsageError: If the run directory is another fit's of this program.
        """
        call = find_fit_call(self)
        running = call.callback_list.callbacks
        others = [c for c in running if c is not self]
        if any(isinstance(other, ResumeCallback) for other in others):
            raise UsageError("fit was given two ResumeCallbacks; it can have one")
        session = FitSession(call, others, self._settings)
        call.callback_list.callbacks = [_First(session), *others, _Last(session)]
        # Keras goes through this list: what the rest of it raises is seen here only.
        following = running[running.index(self) + 1 :]
        del running[running.index(self) + 1 :]
        try:
            session.begin()
            for callback in following:
                callback.on_train_begin(logs)
            session.put_back_random()
        except BaseException as error:
            session.abandon(error)
            raise
