"""When and where `fit` is saved, and which of its metrics a checkpoint keeps.

settings = SaveSettings(run_dir="runs/demo", every_steps=500, ...)
settings.checkpointer()
finite_metrics({"loss": 0.5, "val_loss": float("nan")})     # {"loss": 0.5}
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from resumable_tf.checkpoint import Checkpointer, SaveOptions
from resumable_tf.checkpoint.announcement import announce

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SaveSettings:
    """When and where to save; the arguments of `ResumeCallback`."""

    run_dir: str
    every_steps: int | Literal["auto"] | None
    every_secs: float | None
    keep_last: int | None
    handles_signals: bool
    options: SaveOptions
    began: float
    is_verbose: bool = True

    def say(self, line: str) -> None:
        """Prints a line where Keras prints its own, unless it shall be silent."""
        if not self.is_verbose:
            return
        is_interactive = tf.keras.utils.is_interactive_logging_enabled()
        announce(line, stream=sys.stdout if is_interactive else sys.stderr)

    @property
    def saves_epochs(self) -> bool:
        """Whether the end of each epoch is saved."""
        periods = (self.every_steps, self.every_secs)
        return periods == (None, None) and not self.options.save_when

    def checkpointer(self) -> Checkpointer:
        """Returns a checkpointer with these settings.

        Raises:
            ValueError: If a period or number is not positive.
        """
        return Checkpointer(
            self.run_dir,
            every_steps=self.every_steps,
            every_secs=self.every_secs,
            keep_last=self.keep_last,
            options=replace(self.options, verbose=False),
        )

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: If a period or number is not positive.
        """
        self.checkpointer()


def finite_metrics(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Returns what of an epoch's metrics is one finite number."""
    numbers = {
        str(name): float(value)
        for name, value in (logs or {}).items()
        if np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number)
    }
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def is_finite(logs: Any) -> bool:
    """Returns whether a state with these metrics may be saved.

    Args:
        logs: What the step returned. A step of the user's own may return anything as
            its loss: a vector, several losses in a dictionary, or none.
    """
    loss = logs.get("loss") if isinstance(logs, Mapping) else None
    parts = [tf.convert_to_tensor(p) for p in tf.nest.flatten(loss) if p is not None]
    numbers = [tf.cast(part, "float64") for part in parts if part.dtype.is_floating]
    if all(np.isfinite(part.numpy()).all() for part in numbers):
        return True
    _log.error("the loss is %s; nothing is saved from here on", loss)
    return False
