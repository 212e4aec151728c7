"""The number of completed steps, and whether a loop counts them.

count = StepCount()
count.check(step, progress)         # at each call of maybe_save
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.errors import UsageError


class StepCount:
    """Compares the steps that a loop counts with the training that it does."""

    def __init__(self) -> None:
        """Has heard of no step yet."""
        self._last: int | None = None
        self._progress: tuple[Any, ...] | None = None

    def check(self, step: int, progress: Callable[[], tuple[Any, ...]]) -> None:
        """Takes a step; several calls in a row may be of the same one.

        Args:
            step: Completed steps, as the loop counts them.
            progress: Returns what training moves. Only asked where a step repeats:
                the answer has to come from the device.

        Raises:
            UsageError: If it goes back, or stands still while training goes on.
        """
        if self._last is not None and step < self._last:
            raise UsageError(
                f"state.step went back from {self._last} to {step}; it counts all "
                "completed steps of the training, not those of an epoch: "
                "state.step += 1 after each step, and the epoch in state.extra"
            )
        if step != self._last:
            self._last, self._progress = step, None
            return
        now = progress()
        if self._progress is not None and now != self._progress:
            raise UsageError(
                f"state.step is {step} at every call of maybe_save while training goes "
                f"on (from {self._progress} to {now}), so nothing would be saved. "
                "Count the step before the call: state.step += 1"
            )
        self._progress = now


def whole_step(step: Any) -> int:
    """Returns a number of steps, also one of NumPy or TensorFlow, as an `int`.

    Args:
        step: Any whole number.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is negative.
    """
    if isinstance(step, tf.Variable) or tf.is_tensor(step):
        step = step.numpy()
    if isinstance(step, np.ndarray) and step.ndim == 0:
        step = step[()]
    if isinstance(step, (bool, np.bool_)) or not isinstance(step, (int, np.integer)):
        raise TypeError(
            f"state.step={step!r} is no whole number; it counts the completed steps"
        )
    if step < 0:
        raise ValueError(f"state.step={step} is negative; it counts completed steps")
    return int(step)
