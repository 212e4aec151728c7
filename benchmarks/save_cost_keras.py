"""Keras' `BackupAndRestore`, inside `fit`, for `save_cost.py`.

`fit` runs in a thread. A callback before and one after `BackupAndRestore` let it go
from step to step as the measurement asks, which costs a step some 0.1 ms. It saves at
the end of a batch for which `save_freq` is set to 1, and restores when another `fit`
begins. It keeps one checkpoint, which it overwrites in place, and does not fsync.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from save_cost_plan import Plan
from save_cost_process import run
from save_cost_tensorflow import TensorFlowTraining, tensorflow_version, tf

NEVER = 10**9


class Gate(tf.keras.callbacks.Callback):
    """Says that `fit` is here, and holds it until it may go on."""

    def __init__(self, reached: queue.Queue[BaseException | None]) -> None:
        super().__init__()
        self._reached = reached
        self._answers: queue.Queue[bool] = queue.Queue()

    def let_on(self, *, stops: bool = False) -> None:
        self._answers.put(stops)

    def on_train_begin(self, logs: Any = None) -> None:
        self._hold()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._hold()

    def _hold(self) -> None:
        self._reached.put(None)
        self.model.stop_training = self._answers.get()


class BackupAndRestore:
    def __init__(self, plan: Plan) -> None:
        self.version = tensorflow_version()
        self._directory = plan.directory
        self._training = TensorFlowTraining(plan)
        self._data = tf.data.Dataset.from_tensors(self._training.operands).repeat()
        # What `fit` tells: None from each gate, or what it ended with.
        self._reached: queue.Queue[BaseException | None] = queue.Queue()
        self._begin()

    def step(self) -> None:
        if self._is_before_backup:
            self._pass_backup(save_freq=NEVER)
        self._after.let_on()
        self._arrive()
        self._is_before_backup = True

    def save(self) -> Callable[[], object]:
        self._pass_backup(save_freq=1)
        return lambda: None

    def restore(self) -> float:
        self.close()
        return self._begin()

    def arrays(self) -> Iterator[np.ndarray]:
        return self._training.arrays()

    def close(self) -> None:
        if self._is_before_backup:
            self._pass_backup(save_freq=NEVER)
        self._after.let_on(stops=True)
        self._thread.join()

    def _begin(self) -> float:
        """Starts `fit` and returns the seconds in which the callback restores."""
        self._before, self._after = Gate(self._reached), Gate(self._reached)
        self._backup = tf.keras.callbacks.BackupAndRestore(
            self._directory, save_freq=NEVER, delete_checkpoint=False
        )
        self._thread = threading.Thread(target=self._fit)
        self._thread.start()
        self._arrive()
        begun = time.perf_counter()
        self._pass_backup(save_freq=NEVER)
        return time.perf_counter() - begun

    def _fit(self) -> None:
        callbacks = [self._before, self._backup, self._after]
        try:
            self._training.model.fit(
                self._data, steps_per_epoch=NEVER, callbacks=callbacks, verbose=0
            )
        except BaseException as error:  # noqa: BLE001  handed back by _arrive()
            self._reached.put(error)

    def _pass_backup(self, *, save_freq: int) -> None:
        self._backup.save_freq = save_freq
        self._before.let_on()
        self._arrive()
        self._is_before_backup = False

    def _arrive(self) -> None:
        error = self._reached.get()
        if error is not None:
            raise error


if __name__ == "__main__":
    run(BackupAndRestore)
