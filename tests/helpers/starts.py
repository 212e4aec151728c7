"""Where each start of a training began: what a test of a resume must look at.

    keep_notes()                    a test's side: `runs.py` does it for all
    watch_loop()                    a training's side: `train_and_die.py` does it
    assert_continued(run_dir)       fails if the last start began at step 0

A run that is killed and starts over at step 0 ends bit for bit as one that was never
killed. So that two ends are equal proves nothing, unless the last start is known to
have begun later. What is noted is the step that the loop really began with, not what
the library says of it.

With `START_OVER` in its environment a training finds no checkpoint: every test of a
resume must fail then. `test_proofs_see_the_resume.py` looks at that, and
`pytest --start-over` sets it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

NOTES = "NOTE_STARTS"
START_OVER = "START_OVER"


class StartedOver(AssertionError):
    """A start that should have continued began at step 0."""


def keep_notes() -> None:
    """Lets all trainings that this process starts note where they begin."""
    if NOTES not in os.environ:
        keep_notes.scratch = tempfile.TemporaryDirectory()
        os.environ[NOTES] = keep_notes.scratch.name


def watch_loop() -> None:
    """Notes the step that the loop of this process begins with."""
    from resumable_tf.training import run as run_module

    start_over_if_asked()
    run_loop = run_module.run_loop

    def noting(plan: Any, state: Any, checkpointer: Any, **rest: Any) -> None:
        if checkpointer is not None and state.step < plan.stop_step:
            note(checkpointer.storage.root, state.step)
        run_loop(plan, state, checkpointer, **rest)

    run_module.run_loop = noting


def start_over_if_asked() -> None:
    """Takes the restore out of this process, if its environment says so."""
    if START_OVER in os.environ:
        take_restore_out(setattr)


def take_restore_out(set_attribute: Any) -> None:
    """Takes the restore out: a start finds no checkpoint.

    Args:
        set_attribute: `setattr`, or the one of pytest's `monkeypatch`.
    """
    from resumable_tf.checkpoint import checkpointer
    from resumable_tf.errors import NoCheckpointError

    def nothing(*arguments: Any, **rest: Any) -> None:
        return None

    def refuse(*arguments: Any, **rest: Any) -> None:
        raise NoCheckpointError("taken out")

    set_attribute(checkpointer, "restore_newest", nothing)
    set_attribute(checkpointer, "restore_existing", refuse)


def note(run_dir: str, step: int) -> None:
    """Notes that a start of a run goes on from a step."""
    if NOTES in os.environ:
        with open(_file_of(run_dir), "a", encoding="ascii") as file:
            file.write(f"{step}\n")


def begun_at(run_dir: str | Path) -> list[int]:
    """Returns the step that each start of a run began with, oldest first."""
    path = _file_of(str(run_dir))
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def assert_continued(run_dir: str | Path) -> int:
    """Asserts that the last start of a run went on from a checkpoint.

    Returns:
        The step that it began with.
    """
    begun = begun_at(run_dir)
    if len(begun) < 2 or begun[-1] == 0:
        raise StartedOver(f"{run_dir}: the starts began at {begun}")
    return begun[-1]


def _file_of(run_dir: str) -> Path:
    root = run_dir.rstrip("/")
    if "://" not in root:
        root = os.path.realpath(root)
    return Path(os.environ[NOTES]) / quote(root, safe="")
