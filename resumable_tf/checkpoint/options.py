"""How a checkpointer saves, beyond how often and how many.

options = SaveOptions(save_when=[AtSteps([500])], keep=[KeepMultiples(10_000)])
Checkpointer("runs/demo", every_steps=1000, options=options)
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from resumable_tf.checkpoint.fast_tier import FastTier
from resumable_tf.checkpoint.lease import elapsed_secs
from resumable_tf.checkpoint.policy import SavePolicy
from resumable_tf.checkpoint.retention import KeepPolicy

if TYPE_CHECKING:  # It imports TensorFlow.
    from resumable_tf.state import TrainState

WhenBusy = Literal["wait", "skip", "coalesce"]
OnStorageError = Literal["stop", "continue"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """What a `Checkpointer` can be told, all with defaults.

    Attributes:
        save_when: Policies that make a save due, besides `every_steps` and
            `every_secs`.
        keep: Policies that keep checkpoints, besides `keep_last`.
        asynchronous: Whether to write in a thread of low priority. Otherwise a save
            returns when it is committed.
        when_busy: What becomes of a save that is due while another is in flight:
            "wait" for it, "skip" the new one, or "coalesce": take one snapshot as soon
            as the one in flight is done, for all that were due meanwhile.
        on_storage_error: Whether a save that fails because of the storage (disk full,
            read-only, no permission, ...) ends the training: "stop", or "continue",
            count it and try again when the next save is due. The last save of a
            training must succeed in any case.
        fast_tier: A second place for checkpoints, on this machine; None has none.
        before_save: Called with the state before each snapshot, while training waits;
            it may set `state.extra`. What it returns is called on the writer's thread
            before anything is written: what a checkpoint refers to is stored by then.
        verbose: Whether a run that goes on says so in one line, by
            `restore_or_initialize`: as an INFO record where the program shows these
            of this library, else on standard error.
        clock: Seconds since 1970; goes into the manifests, and decides nothing.
        elapsed: Seconds by a clock that never jumps, for all periods.
    """

    save_when: Sequence[SavePolicy] = ()
    keep: Sequence[KeepPolicy] = ()
    asynchronous: bool = True
    when_busy: WhenBusy = "wait"
    on_storage_error: OnStorageError = "stop"
    fast_tier: FastTier | None = None
    before_save: Callable[[TrainState], Callable[[], None]] | None = None
    verbose: bool = True
    clock: Callable[[], float] = time.time
    elapsed: Callable[[], float] = elapsed_secs

    def __post_init__(self) -> None:
        """Checks the words.

        Raises:
            ValueError: If one is none of those that it may be, or if `when_busy` has
                no effect.
        """
        for name, words in (
            ("when_busy", get_args(WhenBusy)),
            ("on_storage_error", get_args(OnStorageError)),
        ):
            if getattr(self, name) not in words:
                raise ValueError(
                    f"{name} must be one of {', '.join(words)}, not "
                    f"{getattr(self, name)!r}"
                )
        if not self.asynchronous and self.when_busy != "wait":
            raise ValueError(
                f"when_busy={self.when_busy!r} has no effect with asynchronous=False: "
                "no save is ever in flight; leave one of them out"
            )
