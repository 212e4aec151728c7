"""The loop of a whole training, in this process, on a small corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from helpers.runs import write_corpus

import resumable_tf as rtf
from resumable_tf.training import run as run_module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.tsv")


def _config(run_dir: Path, corpus: Path, **changes: Any) -> rtf.TrainConfig:
    settings: dict[str, Any] = {
        "run_dir": str(run_dir),
        "data": f"tsv:{corpus}",
        "records": str(corpus.parent / "records"),
        "row_length": 32,
        "vocab_size": 150,
        "batch_size": 8,
        "stop_step": 6,
        "save_every_steps": 2,
        "steps_per_call": 2,
        "is_deterministic": False,
        **changes,
    }
    return rtf.TrainConfig(**settings)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Poisoned(run_module.TrainSteps):
        def __call__(self, iterator: Any, step: int, num_steps: int) -> Any:
            losses, counts = super().__call__(iterator, step, num_steps)
            if step == 4:
                losses = tf.tensor_scatter_nd_update(losses, [[1]], [float("nan")])
            return losses, counts

    monkeypatch.setattr(run_module, "TrainSteps", Poisoned)
    with pytest.raises(rtf.NonFiniteLossError, match="the loss of step 5 is nan") as e:
        rtf.train(_config(tmp_path / "run", corpus))
    assert (e.value.first_step, e.value.last_checkpoint) == (5, 4)
    checkpointer = rtf.Checkpointer(str(tmp_path / "run"))
    assert [info.step for info in checkpointer.checkpoints()] == [2, 4]


def test_train_reports_where_it_began_and_a_finished_run_is_left_alone(
    corpus: Path, tmp_path: Path
) -> None:
    first = rtf.train(_config(tmp_path / "run", corpus, stop_step=2))
    assert (first.step, first.resumed_from, first.was_finished) == (2, None, False)
    second = rtf.train(_config(tmp_path / "run", corpus, stop_step=4))
    assert (second.step, second.resumed_from, second.was_finished) == (4, 2, False)
    third = rtf.train(_config(tmp_path / "run", corpus, stop_step=4))
    assert (third.step, third.resumed_from, third.was_finished) == (4, 4, True)


def test_other_records_in_the_same_run_are_refused(
    corpus: Path, tmp_path: Path
) -> None:
    rtf.train(_config(tmp_path / "run", corpus, stop_step=1))
    other = write_corpus(tmp_path / "other.tsv", seed=8)
    changed = {"data": f"tsv:{other}", "records": str(tmp_path / "records")}
    with pytest.raises(rtf.DataMismatchError, match="cannot resume from step 1"):
        rtf.train(_config(tmp_path / "run", corpus, **changed))
