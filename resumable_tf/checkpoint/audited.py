"""What a checkpointer tells an audit, if one is under way.

note_step(state, wait=writer.wait)      # before the state is saved
note_restored(state, is_new=False)
"""

from __future__ import annotations

from collections.abc import Callable

from resumable_tf.auditing.switch import active_recorder
from resumable_tf.state import TrainState


def check_run_dir(root: str) -> None:
    """Stops a program that would train elsewhere than the audit has told it to."""
    recorder = active_recorder()
    if recorder is not None:
        recorder.check_run_dir(root)


def note_step(state: TrainState, *, wait: Callable[[], None]) -> None:
    """Lets the audit have the state after a step, before it is saved."""
    recorder = active_recorder()
    if recorder is not None:
        recorder.end_step(state, wait=wait)


def note_restored(state: TrainState, *, is_new: bool) -> None:
    """Lets the audit have the state as it was restored."""
    recorder = active_recorder()
    if recorder is not None:
        recorder.restored(state, is_new=is_new)
