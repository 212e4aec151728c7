"""A stop does not wait for a validation: it is broken off, and made up for.

Guards against a grace that a validation eats, and against metrics that differ after it.
The whole training, in this process.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import final_tensors, metric_lines, write_corpus
from helpers.settings import small_run

import resumable_tf as rtf
from resumable_tf.training import run as run_module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.tsv"
    # Three batches of validation.
    return write_corpus(path, num_pairs=1200)


def config(run_dir: Path, corpus: Path, **changes: Any) -> rtf.TrainConfig:
    changes = {"batch_size": 2, "eval_every_steps": 2, "log_every_steps": 1} | changes
    return small_run(run_dir, corpus, **changes)


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to which nothing happens."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    rtf.train(config(run_dir, corpus))
    return run_dir


class Stopped:
    """Validation batches; SIGTERM comes before the second one of some validations."""

    def __init__(self, batches: Any, *numbers: int) -> None:
        self._batches = batches
        self._numbers = numbers
        self.begun = 0
        self.after_stop = 0

    def __iter__(self) -> Iterator[Any]:
        number, is_stopped = self.begun, False
        self.begun += 1
        for index, batch in enumerate(self._batches):
            if index == 1 and number in self._numbers:
                signal.raise_signal(signal.SIGTERM)
                is_stopped = True
            self.after_stop += is_stopped
            yield batch


def stop_in(patch: pytest.MonkeyPatch, *numbers: int) -> list[Stopped]:
    """Lets SIGTERM come in the middle of some validations of the next start."""
    made: list[Stopped] = []
    real = run_module.evaluation_batches

    def stopped(*arguments: Any, **rest: Any) -> Stopped:
        made.append(Stopped(real(*arguments, **rest), *numbers))
        return made[-1]

    patch.setattr(run_module, "evaluation_batches", stopped)
    return made


def assert_same(run_dir: Path, whole: Path) -> None:
    for name in ("train", "eval"):
        assert metric_lines(run_dir, name) == metric_lines(whole, name)
    ours, theirs = final_tensors(run_dir), final_tensors(whole)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, err_msg=key)
    one, other = (rtf.Checkpointer(str(path)).latest() for path in (run_dir, whole))
    assert one is not None and other is not None
    assert one.manifest.extra == other.manifest.extra


@pytest.mark.parametrize(
    ("stops", "save_every_steps", "resumes_from"),
    [
        # At step 4, where no save is due.
        ([1], 5, 4),
        # In the last one, and when it is made up.
        pytest.param([2, 0], 5, 6, marks=pytest.mark.slow),
        # Where a save is due, when it is made up, and in the one after.
        pytest.param([0, 0, 2], 2, 6, marks=pytest.mark.slow),
    ],
)
def test_a_validation_that_a_stop_breaks_off_is_made_up_for(
    corpus: Path,
    whole: Path,
    tmp_path: Path,
    stops: list[int],
    save_every_steps: int,
    resumes_from: int,
) -> None:
    run_dir = tmp_path / "run"
    settings = config(run_dir, corpus, save_every_steps=save_every_steps)
    for number in stops:
        with pytest.MonkeyPatch.context() as patch:
            made = stop_in(patch, number)
            with pytest.raises(rtf.Preempted):
                rtf.train(settings)
            # The batch that was at hand, and no other.
            assert (made[0].begun, made[0].after_stop) == (number + 1, 1)
    result = rtf.train(settings)
    assert (result.step, result.was_finished) == (6, False)
    assert result.resumed_from == resumes_from
    assert_same(run_dir, whole)


@pytest.mark.slow
def test_the_fast_tier_has_it_too(corpus: Path, whole: Path, tmp_path: Path) -> None:
    fast = {"fast_dir": str(tmp_path / "fast"), "fast_every_steps": 1}
    settings = config(tmp_path / "run", corpus, **fast)
    for number in (1, 1):
        with pytest.MonkeyPatch.context() as patch:
            stop_in(patch, number)
            with pytest.raises(rtf.Preempted):
                rtf.train(settings)
        newest = rtf.Checkpointer(fast["fast_dir"]).latest()
        assert newest is not None and newest.manifest.extra["evaluation_owed"]
        # What the fast tier has must do, without the run directory's copy.
        for path in (tmp_path / "run" / "checkpoints").glob(f"ckpt-{newest.step}.*"):
            path.unlink()
    result = rtf.train(settings)
    assert (result.step, result.resumed_from) == (6, newest.step)
    assert_same(tmp_path / "run", whole)
