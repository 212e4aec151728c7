"""Lets all hosts stop at the same step.

    agreement = HostAgreement(strategy)
    agreement.any(False)          # True on every host if it is True on one

Every host must ask at the same steps: it is a collective operation.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class HostAgreement:
    """Adds up a flag over all replicas of a strategy, on whatever host they are."""

    def __init__(self, strategy: Any) -> None:
        """Prepares the sum; runs nothing.

        Args:
            strategy: A strategy with one process on each host.
        """

        def total(flag: Any) -> Any:
            flags = strategy.run(tf.identity, args=(flag,))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, flags, axis=None)

        self._total = tf.function(total, autograph=False)

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set on any host; waits for all of them."""
        return float(self._total(tf.constant(float(flag)))) > 0
