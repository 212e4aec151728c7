"""How a checkpointer saves, beyond how often and how many.

options = SaveOptions(save_when=[AtSteps([500])], keep=[KeepMultiples(10_000)])
Checkpointer("runs/demo", every_steps=1000, options=options)
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from resumable_tf.checkpoint.fast_tier import FastTier
from resumable_tf.checkpoint.policy import SavePolicy
from resumable_tf.checkpoint.retention import KeepPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """What a `Checkpointer` can be told, all with defaults.

    Attributes:
        save_when: Policies that make a save due, besides `every_steps` and
            `every_secs`.
        keep: Policies that keep checkpoints, besides `keep_last`.
        asynchronous: Whether to write in a thread of low priority. Otherwise a save
            returns when it is committed.
        fast_tier: A second place for checkpoints, on this machine; None has none.
        clock: Seconds since 1970; goes into the manifests.
    """

    save_when: Sequence[SavePolicy] = ()
    keep: Sequence[KeepPolicy] = ()
    asynchronous: bool = True
    fast_tier: FastTier | None = None
    clock: Callable[[], float] = time.time
