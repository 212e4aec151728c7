"""Metrics on an object store are stored by the writer, before the checkpoint is."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest
from helpers.small_state import advance, small_state

import resumable_tf as rtf
from resumable_tf.errors import SaveError
from resumable_tf.training.event_log import EventLog
from resumable_tf.training.hooks import WRITTEN_KEY, note_metrics
from resumable_tf.training.metrics_log import MetricsLog


def steps_stored(root: str) -> list[int]:
    with fsspec.open(f"{root}/train.jsonl", "rt") as file:
        return [json.loads(line)["step"] for line in file]


def steps_of_events(root: str) -> int:
    files = fsspec.filesystem("memory")
    return sum(files.size(path) for path in files.find(f"{root}/train"))


def test_lines_are_stored_when_a_save_is_and_training_does_not_wait(
    tmp_path: Path,
) -> None:
    root = f"memory://{tmp_path.name}"
    log = MetricsLog(f"{root}/train.jsonl", events=EventLog(f"{root}/train"))
    log.open(step=0)
    state = small_state()
    options = rtf.SaveOptions(before_save=lambda state: note_metrics(state, log))
    begun = steps_of_events(root)
    with rtf.Checkpointer(str(tmp_path), options=options) as checkpointer:
        for _ in range(3):
            advance(state)
            log.append({"step": state.step, "loss": 1.0})
        assert steps_of_events(root) == begun
        info = checkpointer.save(state).result()
        assert steps_stored(root) == [1, 2, 3]
        assert info.manifest.extra[WRITTEN_KEY] == {"train.jsonl": log.written()}
    assert steps_of_events(root) > begun


def test_lines_that_could_not_be_stored_are_stored_by_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"memory://{tmp_path.name}"
    log = MetricsLog(f"{root}/train.jsonl")
    log.open(step=0)
    state = small_state()
    options = rtf.SaveOptions(before_save=lambda state: note_metrics(state, log))

    def fail(lines: list[bytes]) -> None:
        raise OSError("the bucket is gone")

    with rtf.Checkpointer(str(tmp_path), options=options) as checkpointer:
        advance(state)
        log.append({"step": 1, "loss": 1.0})
        with monkeypatch.context() as patch:
            patch.setattr(log, "_rewrite", fail)
            with pytest.raises(SaveError, match="the bucket is gone"):
                checkpointer.save(state).result()
        assert checkpointer.checkpoints() == []
        advance(state)
        checkpointer.save(state).result()
    assert steps_stored(root) == [1]


def test_a_worker_that_leaves_the_file_to_another_keeps_no_lines() -> None:
    log = MetricsLog("memory://nowhere/train.jsonl")
    log.append({"step": 1, "loss": 1.0})
    assert log.written() == [0, 0]
    assert not log._pending
