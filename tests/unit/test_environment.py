"""A checkpoint of another TensorFlow or processor is restored with a warning."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from helpers.small_state import small_state

from resumable_tf.checkpoint import Checkpointer, draft
from resumable_tf.checkpoint.environment import changes, environment


def test_only_what_results_may_depend_on_counts_as_a_change() -> None:
    now = environment()
    assert changes(now, now) == []
    other = {**now, "tensorflow": "2.0", "python": "3.0", "resumable_tf": "0", "x": "1"}
    assert changes(other, now) == [f"tensorflow: 2.0, now {now['tensorflow']}"]


@pytest.mark.parametrize("name", ["tensorflow", "keras", "onednn", "processor"])
def test_a_restore_names_what_has_changed_since_the_save(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = {**environment(), name: "another"}
    with monkeypatch.context() as patch, Checkpointer(str(tmp_path)) as checkpointer:
        patch.setattr(draft, "environment", lambda: other)
        checkpointer.save(small_state())
    with caplog.at_level(logging.WARNING):
        Checkpointer(str(tmp_path)).restore_or_initialize(small_state())
    assert f"{name}: another, now {environment()[name]}" in caplog.text


def test_a_restore_in_the_same_environment_warns_of_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.save(small_state())
    with caplog.at_level(logging.WARNING):
        Checkpointer(str(tmp_path)).restore_or_initialize(small_state())
    assert not caplog.records
