"""Run directories with checkpoints of a small state, and storages that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.faulty_storage import FaultyStorage
from helpers.small_state import advance, small_state

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.storage import LocalStorage


def save_steps(run_dir: Path, *steps: int, **arguments: Any) -> None:
    state = small_state()
    with Checkpointer(str(run_dir), **arguments) as checkpointer:
        checkpointer.restore_or_initialize(state)
        for step in steps:
            advance(state, step - state.step)
            checkpointer.save(state)


def steps_in(run_dir: Path) -> list[int]:
    return [info.step for info in Checkpointer(str(run_dir)).checkpoints()]


def broken(run_dir: Path, fail_at: int) -> FaultyStorage:
    return FaultyStorage(LocalStorage(str(run_dir)), fail_at=fail_at)
