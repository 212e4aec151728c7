"""This project's `Checkpointer`, for `save_cost.py`.

A save is durable when its handle has a result: files are fsynced before the manifest,
whose presence is the commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
from save_cost_plan import Plan
from save_cost_process import run
from save_cost_tensorflow import TensorFlowTraining, tensorflow_version

import resumable_tf as rtf


class Ours:
    def __init__(self, plan: Plan) -> None:
        self.version = tensorflow_version()
        rtf.keep_freed_memory()
        self._training = TensorFlowTraining(plan)
        self._state = rtf.TrainState(
            model=self._training.model, optimizer=self._training.optimizer
        )
        self._checkpointer = rtf.Checkpointer(plan.directory, keep_last=3)
        self._checkpointer.restore_or_initialize(self._state)

    def step(self) -> None:
        self._training.step()
        self._state.step += 1

    def save(self) -> Callable[[], object]:
        return self._checkpointer.save(self._state).result

    def restore(self) -> float:
        begun = time.perf_counter()
        self._checkpointer.restore_or_initialize(self._state)
        return time.perf_counter() - begun

    def arrays(self) -> Iterator[np.ndarray]:
        return self._training.arrays()

    def close(self) -> None:
        self._checkpointer.close()


if __name__ == "__main__":
    run(Ours)
