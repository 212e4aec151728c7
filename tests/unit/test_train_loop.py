"""The loop of a whole training, in this process, on a small corpus."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.runs import final_tensors, metric_lines, write_corpus
from helpers.settings import small_run

import resumable_tf as rtf
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.errors import SaveError
from resumable_tf.training import program as program_module
from resumable_tf.training.metrics_log import MetricsLog


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.tsv")


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to which nothing happens."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    rtf.train(small_run(run_dir, corpus, log_every_steps=1))
    return run_dir


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Poisoned(program_module.TrainSteps):
        def __call__(self, iterator: Any, step: int, num_steps: int) -> Any:
            losses, counts = super().__call__(iterator, step, num_steps)
            if step == 4:
                losses = tf.tensor_scatter_nd_update(losses, [[1]], [float("nan")])
            return losses, counts

    monkeypatch.setattr(program_module, "TrainSteps", Poisoned)
    with pytest.raises(rtf.NonFiniteLossError, match="the loss of step 5 is nan") as e:
        rtf.train(small_run(tmp_path / "run", corpus))
    assert (e.value.first_step, e.value.last_checkpoint) == (5, 4)
    checkpointer = rtf.Checkpointer(str(tmp_path / "run"))
    assert [info.step for info in checkpointer.checkpoints()] == [2, 4]


@pytest.mark.slow
def test_training_goes_on_over_a_full_disk_and_ends_as_without(
    corpus: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both a checkpoint and the metrics find no room for a while."""
    full = OSError(errno.ENOSPC, "No space left on device")
    written, flushed = [], []
    write, flush = Tier.write, MetricsLog.flush

    def failing_write(tier: Tier, snapshot: Any, draft: Any) -> Any:
        written.append(draft.step)
        if draft.step == 2:
            raise full
        return write(tier, snapshot, draft)

    def failing_flush(log: MetricsLog) -> None:
        flushed.append(log)
        if len(flushed) == 3:  # After the second call: the save of step 4.
            raise full
        flush(log)

    monkeypatch.setattr(Tier, "write", failing_write)
    monkeypatch.setattr(MetricsLog, "flush", failing_flush)
    changed = {"on_storage_error": "continue", "log_every_steps": 1}
    result = rtf.train(small_run(tmp_path / "run", corpus, **changed))
    assert result.step == 6
    # Step 4 is not tried: its metrics are not written.
    assert written == [2, 6]
    run = tmp_path / "run"
    assert metric_lines(run, "train") == metric_lines(whole, "train")
    for key, value in final_tensors(whole).items():
        np.testing.assert_array_equal(final_tensors(run)[key], value)
    assert "the save of step 2 failed: [Errno 28] No space left" in caplog.text
    assert "step 4 could not be begun: [Errno 28] No space left" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_a_training_whose_last_save_fails_has_failed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Tier, "write", fail)
    with pytest.raises(SaveError, match="No space left on device"):
        rtf.train(small_run(tmp_path, corpus, on_storage_error=policy))


@pytest.mark.slow
def test_an_automatic_interval_cuts_no_call_and_changes_no_result(
    corpus: Path, whole: Path, tmp_path: Path
) -> None:
    changed: dict[str, Any] = {"save_every_steps": "auto", "steps_per_call": 5}
    rtf.train(small_run(tmp_path / "auto", corpus, **changed))
    for key, value in final_tensors(whole).items():
        np.testing.assert_array_equal(final_tensors(tmp_path / "auto")[key], value)
    assert small_run(tmp_path, corpus, **changed).save_period_secs is None
    assert small_run(tmp_path, corpus).save_period_secs == 300.0


def test_train_reports_where_it_began_and_a_finished_run_is_left_alone(
    corpus: Path, tmp_path: Path
) -> None:
    first = rtf.train(small_run(tmp_path / "run", corpus, stop_step=2))
    assert (first.step, first.resumed_from, first.was_finished) == (2, None, False)
    second = rtf.train(small_run(tmp_path / "run", corpus, stop_step=4))
    assert (second.step, second.resumed_from, second.was_finished) == (4, 2, False)
    third = rtf.train(small_run(tmp_path / "run", corpus, stop_step=4))
    assert (third.step, third.resumed_from, third.was_finished) == (4, 4, True)


def test_other_records_in_the_same_run_are_refused(
    corpus: Path, tmp_path: Path
) -> None:
    rtf.train(small_run(tmp_path / "run", corpus, stop_step=1))
    other = write_corpus(tmp_path / "other.tsv", seed=8)
    changed = {"data": f"tsv:{other}", "records": str(tmp_path / "records")}
    with pytest.raises(rtf.DataMismatchError, match="cannot resume from step 1"):
        rtf.train(small_run(tmp_path / "run", corpus, **changed))
