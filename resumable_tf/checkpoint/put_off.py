"""The live state at the last moment at which a save of it was due and put off.

    seen = PutOff()
    seen.note(state, metrics)
    ...
    if seen.is_still_so():          # it may be saved now, as it would have been then
        save(seen.state, metrics=seen.metrics)

Whoever waits or closes is asked for no state. The one that was seen last may be in the
middle of a step by then: its counters (the optimizers' iterations, the states of random
generators) tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.state import TrainState
from resumable_tf.state.leaf import is_variable, replica_components

_MOST_ELEMENTS = 16
"""Of a counter: a random generator's state has three."""


class PutOff:
    """A moment between two steps.

    Attributes:
        state: The live objects, None before the first moment.
        step: Their step at that moment.
        metrics: What was measured.
    """

    def __init__(self) -> None:
        """Begins without a moment."""
        self.state: TrainState | None = None
        self.step = 0
        self.metrics: Mapping[str, float] | None = None
        self._counters: list[Any] = []
        self._values: list[Any] = []

    def note(self, state: TrainState, metrics: Mapping[str, float] | None) -> None:
        """Takes this moment in place of the last; waits for no device.

        Args:
            state: The live objects, between two steps.
            metrics: Finite numbers to keep in the manifest.
        """
        if state is not self.state:  # To look for them at each step takes too long.
            self._counters = [
                part
                for variable in state.variables()
                if is_variable(variable)
                for part in replica_components(variable)
                if _is_counter(part)
            ]
        self.state, self.step, self.metrics = state, state.step, metrics
        self._values = [tf.identity(counter) for counter in self._counters]

    def is_still_so(self) -> bool:
        """Returns whether the state is certainly the one of that moment.

        Without any counter nobody can say.
        """
        if self.state is None or not self._counters or self.state.step != self.step:
            return False
        return all(
            np.array_equal(counter.numpy(), value.numpy())
            for counter, value in zip(self._counters, self._values, strict=True)
        )


def _is_counter(variable: Any) -> bool:
    count = variable.shape.num_elements()
    return variable.dtype.is_integer and count is not None and count <= _MOST_ELEMENTS
