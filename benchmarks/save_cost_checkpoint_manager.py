"""`tf.train.CheckpointManager`, as it ships and asynchronous, for `save_cost.py`.

The asynchronous one gets the bare `tf.Variable`s: with Keras 3 objects in the
checkpoint, its second save raises (TensorFlow 2.21). Neither fsyncs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from save_cost_plan import Plan
from save_cost_process import run
from save_cost_tensorflow import TensorFlowTraining, tensorflow_version, tf


class CheckpointManager:
    def __init__(self, plan: Plan, *, is_async: bool) -> None:
        self.version = tensorflow_version()
        self._training = TensorFlowTraining(plan)
        self._step = 0
        self._checkpoint = self._make_checkpoint(is_async=is_async)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, plan.directory, max_to_keep=3
        )
        self._is_async = is_async
        self._options = tf.train.CheckpointOptions(
            experimental_enable_async_checkpoint=is_async
        )

    def step(self) -> None:
        self._training.step()
        self._step += 1

    def save(self) -> Callable[[], object]:
        self._manager.save(checkpoint_number=self._step, options=self._options)
        return self._manager.sync if self._is_async else lambda: None

    def restore(self) -> float:
        begun = time.perf_counter()
        self._checkpoint.restore(self._manager.latest_checkpoint).assert_consumed()
        return time.perf_counter() - begun

    def arrays(self) -> Iterator[np.ndarray]:
        return self._training.arrays()

    def close(self) -> None:
        self._manager.sync()

    def _make_checkpoint(self, *, is_async: bool) -> Any:
        training = self._training
        if not is_async:
            return tf.train.Checkpoint(
                model=training.model, optimizer=training.optimizer
            )
        variables = [variable.value for variable in training.variables()]
        return tf.train.Checkpoint(variables=variables)


if __name__ == "__main__":
    run(lambda plan: CheckpointManager(plan, is_async="--async" in sys.argv))
