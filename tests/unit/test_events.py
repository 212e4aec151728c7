"""The supervisor's events: a file that takes them no more is given up, and said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from resumable_tf.supervising.events import EventFiles, Events


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def test_a_closed_pipe_is_given_up_with_one_warning_in_the_other_file(
    tmp_path: Path, closed_pipe: int
) -> None:
    kept = os.open(tmp_path / "events", os.O_WRONLY | os.O_CREAT)
    events = Events(EventFiles({closed_pipe: "standard error", kept: "events"}))
    for step in (1, 2):
        events.emit("heartbeat", start=1, step=step, secs=0.5)
    first, lost, second = sorted(read(tmp_path / "events"), key=lambda e: e["time"])
    assert {first["event"], lost["event"]} == {"heartbeat", "events_lost"}
    (lost,) = [one for one in read(tmp_path / "events") if "reason" in one]
    assert lost["file"] == "standard error" and "Broken pipe" in lost["reason"]
    assert second["step"] == 2


def test_without_any_file_left_events_go_nowhere(closed_pipe: int) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    events = Events(EventFiles({closed_pipe: "standard error", full: "/dev/full"}))
    for _ in range(2):
        events.emit("no_heartbeat", start=1)


def test_a_line_that_is_taken_in_parts_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    kept = os.open(tmp_path / "events", os.O_WRONLY | os.O_CREAT)
    Events(EventFiles({kept: "events"})).emit("no_heartbeat", start=1)
    monkeypatch.undo()
    assert read(tmp_path / "events")[0]["start"] == 1
