"""With the restore taken out, what compares the ends of runs must fail.

A run that starts over ends as one without a break. `pytest --start-over` takes the
restore out of any other test: a test of a resume that passes then proves nothing.
"""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from helpers.fit_runs import build, interrupted_fit, resumed_fit
from helpers.runs import (
    assert_equal_runs,
    assert_same_run,
    run_training,
    train_args,
    write_corpus,
)
from helpers.starts import (
    START_OVER,
    StartedOver,
    assert_continued,
    begun_at,
    take_restore_out,
)

_FLAGS = {"stop_step": 6, "save_every_steps": 2, "steps_per_call": 1}


@pytest.fixture
def no_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    take_restore_out(monkeypatch.setattr)


@pytest.mark.usefixtures("no_restore")
def test_an_interrupted_fit_that_starts_over_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(StartedOver, match="first batch"):
        interrupted_fit("numpy_arrays", tmp_path, every=2, kills=[3])
    with pytest.raises(StartedOver, match="first batch"):
        resumed_fit(build("numpy_arrays"), tmp_path)


def test_a_fit_killed_too_early_to_be_resumed_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(StartedOver):
        interrupted_fit("numpy_arrays", tmp_path, every=5, kills=[3])


@pytest.mark.crash
def test_a_killed_training_that_starts_over_is_noticed_and_ends_the_same(
    tmp_path: Path,
) -> None:
    corpus = write_corpus(tmp_path / "corpus.tsv")
    args = {
        name: train_args(tmp_path / name, corpus, **_FLAGS) for name in ("run", "whole")
    }
    assert run_training(args["whole"]).returncode == 0
    killed = run_training(args["run"], kill_after_step=5)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = run_training(args["run"], **{START_OVER: "1"})
    assert done.returncode == 0, done.stderr
    # This is why it must be looked at.
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")
    assert begun_at(tmp_path / "run") == [0, 0]
    with pytest.raises(StartedOver, match=r"began at \[0, 0\]"):
        assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_that_was_never_interrupted_is_no_resumed_one(tmp_path: Path) -> None:
    with pytest.raises(StartedOver, match=r"began at \[\]"):
        assert_continued(tmp_path)


@pytest.mark.usefixtures("no_restore")
def test_the_restore_that_is_taken_out_is_the_one_that_programs_call(
    tmp_path: Path,
) -> None:
    """Or all of the above would look at nothing."""
    from helpers.small_state import advance, small_state, values

    import resumable_tf as rtf

    state = small_state()
    advance(state, 3)
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.save(state)
    again = small_state()
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        assert checkpointer.restore_or_initialize(again) is None
    assert again.step == 0 and not np.any(values(again)[0])
