"""The last save of a training: it is tried whatever became of those before.

    save_last(state, checkpointer)                        # there is all the time
    save_in_time(state, checkpointer, guard.grace_left_secs)

Failures of earlier saves are logged here and end nothing: there may be no other chance
to save what came after them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from resumable_tf.errors import SaveError
from resumable_tf.training.grace import choose_tier, is_worth_a_try

if TYPE_CHECKING:
    from resumable_tf.checkpoint import Checkpointer
    from resumable_tf.state import TrainState

_log = logging.getLogger(__name__)
_MOST_PENDING = 2
"""Failures that nobody has heard of yet: of a save, and of a copy."""


def save_last(
    state: TrainState,
    checkpointer: Checkpointer,
    *,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Waits until the run directory has the state, copied if the fast tier has it.

    Args:
        state: The live objects, between two steps.
        checkpointer: Saves them.
        metrics: Finite numbers to keep in the manifest.

    Raises:
        SaveError: If the save under way or this one fails.
    """
    checkpointer.put_off(state)  # Whatever is due is made by this very save.
    checkpointer.wait(for_due=False)
    # Asks no storage: one that fails must not keep the last save from being tried.
    if checkpointer.durable_step == state.step:
        return
    if "fast" in checkpointer.save_secs and checkpointer.committed_step == state.step:
        # A second save of the step would move this one out of the way first.
        checkpointer.copy_fast(state.step)
        _hear(lambda: checkpointer.wait(for_due=False), state.step)
    if checkpointer.durable_step != state.step:
        checkpointer.save(state, metrics=metrics).result()
        checkpointer.wait(for_due=False)


def save_in_time(
    state: TrainState,
    checkpointer: Checkpointer,
    left_secs: Callable[[], float],
    *,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Saves as durably as the time that is left allows.

    Args:
        state: The live objects, between two steps.
        checkpointer: Saves them.
        left_secs: Returns the time that is left.
        metrics: Finite numbers to keep in the manifest.

    Raises:
        SaveError: If this save fails.
    """
    checkpointer.put_off(state)  # Whatever is due is made by this very save.
    left = left_secs()
    if choose_tier(left, checkpointer.save_secs) != "fast":
        _hear(lambda: checkpointer.wait(for_due=False), state.step)
        save_last(state, checkpointer, metrics=metrics)
        return
    _log.warning(
        "saving step %d to the fast tier first: %.1f s may not be enough for the run "
        "directory",
        *(state.step, left),
    )
    # The save under way may be of this step; a second one would move it out of the way.
    _hear(lambda: checkpointer.wait(for_copy=False), state.step)
    if checkpointer.committed_step != state.step:
        checkpointer.save(state, metrics=metrics, in_durable=False).result()
    if checkpointer.durable_step == state.step:
        return
    left = left_secs()
    if is_worth_a_try(left, checkpointer.save_secs["durable"]):
        _copy(state.step, checkpointer, left)
    else:
        _log.warning(
            "step %d stays in the fast tier only, with %.1f s left; the next start "
            "here copies it to the run directory",
            *(state.step, left),
        )


def _hear(check: Callable[[], None], step: int) -> None:
    """Lets the failures of earlier saves be heard of."""
    for _ in range(_MOST_PENDING):
        try:
            check()
            return
        except SaveError as error:
            _log.error("saving step %d none the less: %s", step, error)


def _copy(step: int, checkpointer: Checkpointer, left: float) -> None:
    """Copies a fast checkpoint to the run directory, where it may be cut off.

    A second save of the step would move the fast one out of the way first.
    """
    _log.warning(
        "step %d is in the fast tier; copying it to the run directory with %.1f s left",
        *(step, left),
    )
    _hear(lambda: checkpointer.wait(for_due=False), step)
    try:
        if checkpointer.durable_step != step:
            checkpointer.copy_fast(step)
            checkpointer.wait(for_due=False)
    except SaveError as error:
        _log.error("step %d stays in the fast tier only: %s", step, error)
