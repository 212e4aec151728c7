"""A machine that saves to two tiers, for tests of what is restored and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Catalog, Checkpointer, FastTier, SaveOptions
from resumable_tf.state import TrainState
from resumable_tf.storage import open_storage


class Machine:
    """A machine with a fast tier of its own; the run directory is everybody's."""

    def __init__(self, directory: Path, name: str = "here") -> None:
        self.run_dir = str(directory / "run")
        self.fast_dir = directory / f"fast-{name}"

    def checkpointer(self, **arguments: Any) -> Checkpointer:
        fast = FastTier(self.fast_dir, every_steps=1, keep_last=3)
        options = SaveOptions(fast_tier=fast)
        return Checkpointer(
            self.run_dir, keep_last=2, options=options, **{"every_steps": 5} | arguments
        )

    def train(
        self, to_step: int, *, from_step: int | None = None, **arguments: Any
    ) -> int:
        """Goes on to a step, saving after each; returns the step it began with."""
        state = small_state()
        with self.checkpointer(**arguments) as checkpointer:
            if from_step is None:
                checkpointer.restore_or_initialize(state)
            else:
                checkpointer.restore(state, from_step)
            begin = state.step
            assert_at_step(state, begin)
            train_on(state, checkpointer, to_step)
        return begin

    def restored(self) -> int:
        state = small_state()
        self.checkpointer().restore(state)
        assert_at_step(state, state.step)
        return state.step

    def steps(self) -> tuple[list[int], list[int]]:
        return steps_in(self.fast_dir), steps_in(self.run_dir)


def train_on(state: TrainState, checkpointer: Checkpointer, to_step: int) -> None:
    while state.step < to_step:
        advance(state)
        checkpointer.maybe_save(state)


def steps_in(directory: str | Path) -> list[int]:
    return Catalog(open_storage(directory)).steps()


def save_on(state: TrainState, checkpointer: Checkpointer, *to_steps: int) -> None:
    """Goes on to steps; at each what was saved is whole before it goes on."""
    for step in to_steps:
        train_on(state, checkpointer, step)
        checkpointer.wait()
