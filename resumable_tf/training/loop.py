"""The training loop: restore, batch, step, hooks, maybe save.

    run_loop(plan, state, checkpointer, hooks)

Everything periodic is cut so that it falls on the end of a compiled call: no call of
several steps crosses a save, an evaluation or the stop step, so results do not
depend on how many steps a call has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.errors import NonFiniteLossError
from resumable_tf.state import TrainState
from resumable_tf.training.last_save import save_last
from resumable_tf.training.preemption import PreemptionGuard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CallResult:
    """What one compiled call did.

    Attributes:
        first_step: Completed steps before it.
        losses: Mean loss per target token of each of its steps, in nats.
        num_tokens: Target tokens of each of its steps.
    """

    first_step: int
    losses: Sequence[float]
    num_tokens: Sequence[float]

    @property
    def step(self) -> int:
        """Completed steps after it."""
        return self.first_step + len(self.losses)


Hook = Callable[[TrainState, CallResult], None]
"""Called after each compiled call, before a save that is due."""


@dataclass(frozen=True)
class LoopPlan:
    """How far to train and where a compiled call must end.

    Attributes:
        stop_step: Completed steps at which training ends.
        steps_per_call: Most steps in a call.
        breaks: A call may not cross a multiple of any of these.
        batches: Maps completed steps to the iterator of the batches from there.
        train_steps: A `TrainSteps`.
    """

    stop_step: int
    steps_per_call: int
    breaks: Sequence[int]
    batches: Callable[[int], Iterator[Any]]
    train_steps: Callable[[Any, int, int], tuple[Any, Any]]

    def steps_from(self, step: int) -> int:
        """Returns the number of steps of the call that begins after `step`."""
        ends = [step + self.steps_per_call, self.stop_step]
        ends += [(step // every + 1) * every for every in self.breaks]
        return min(ends) - step


def run_loop(
    plan: LoopPlan,
    state: TrainState,
    checkpointer: Checkpointer | None,
    *,
    hooks: Sequence[Hook] = (),
    guard: PreemptionGuard | None = None,
) -> None:
    """Trains from `state.step` to the plan's stop step.

    The last state is always saved, and so is the state when `guard` asks for it.

    Args:
        plan: How far and in what calls.
        state: The live objects.
        checkpointer: Saves it; None in a worker that leaves this to the chief.
        hooks: Called after each compiled call.
        guard: Asks for a save and an end; it must be the same on all hosts.

    Raises:
        NonFiniteLossError: If a loss is NaN or infinite; nothing is saved after it.
        Preempted: If a stop was requested; the state is saved.
    """
    iterator = plan.batches(state.step) if state.step < plan.stop_step else iter(())
    while state.step < plan.stop_step:
        num_steps = plan.steps_from(state.step)
        losses, counts = plan.train_steps(iterator, state.step, num_steps)
        result = CallResult(
            state.step, losses.numpy().tolist(), counts.numpy().tolist()
        )
        _check_finite(result, checkpointer)
        state.step = result.step
        for hook in hooks:
            hook(state, result)
        if checkpointer is not None:
            checkpointer.maybe_save(state)
        if guard is not None:
            guard.after_step(state, checkpointer)
    if checkpointer is not None:
        save_last(state, checkpointer)
    if guard is not None:
        guard.finish(state.step)


def _check_finite(result: CallResult, checkpointer: Checkpointer | None) -> None:
    """Refuses a NaN or infinite loss.

    Raises:
        NonFiniteLossError: If there is one.
    """
    bad = np.flatnonzero(~np.isfinite(result.losses))
    if not bad.size:
        return
    first = result.first_step + int(bad[0])
    kept = None
    if checkpointer is not None:
        checkpointer.wait(for_due=False)
        kept = checkpointer.committed_step
    raise NonFiniteLossError(
        f"the loss of step {first} is {result.losses[int(bad[0])]} (steps "
        f"{result.first_step} to {result.step - 1} were one call).\n"
        f"  last good checkpoint: {'none' if kept is None else f'step {kept}'}\n"
        "Nothing was saved after it. A lower learning rate or another seed may help; "
        "both need a new run directory.",
        first_step=first,
        last_checkpoint=kept,
    )
