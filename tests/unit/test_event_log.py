"""TensorBoard's events end where the checkpoint ends, whatever a kill left behind."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
import tensorflow as tf
from helpers.fake_gcs import FakeGcs
from helpers.runs import event_lines

from resumable_tf.training.event_log import EventLog, _complete_records, _to_record


def write(directory: Path, *, start: int, steps: list[int]) -> EventLog:
    log = EventLog(str(directory))
    log.open(step=start)
    for step in steps:
        log.append({"step": step, "loss": step / 4, "learning_rate": 0.5})
    log.flush()
    return log


@pytest.mark.parametrize(
    ("resumed", "kept"), [(0, []), (20, [10, 20]), (25, [10, 20]), (30, [10, 20, 30])]
)
def test_a_resume_drops_the_events_beyond_its_step_and_no_other(
    tmp_path: Path, resumed: int, kept: list[int]
) -> None:
    directory = tmp_path / "metrics" / "train"
    write(directory, start=0, steps=[10, 20, 30])
    write(directory, start=resumed, steps=[40])
    found = event_lines(tmp_path, "train")
    assert found == [(step, step / 4) for step in [*kept, 40]]


def test_events_of_several_starts_are_cut_in_the_newest_file_only(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "metrics" / "train"
    write(directory, start=0, steps=[10, 20, 30])
    write(directory, start=20, steps=[30, 40, 50])
    write(directory, start=40, steps=[50, 60])
    write(directory, start=50, steps=[60])
    steps = [step for step, _ in event_lines(tmp_path, "train")]
    assert steps == [10, 20, 30, 40, 50, 60]


def test_a_torn_event_is_dropped(tmp_path: Path) -> None:
    directory = tmp_path / "metrics" / "train"
    write(directory, start=0, steps=[10, 20, 30])
    (file,) = directory.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    write(directory, start=20, steps=[30])
    assert [step for step, _ in event_lines(tmp_path, "train")] == [10, 20, 30]


def test_files_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    directory = tmp_path / "metrics" / "train"
    directory.mkdir(parents=True)
    other = directory / "events.out.tfevents.1700000000.host.1.0.v2"
    other.write_bytes(b"")
    write(directory, start=0, steps=[10])
    assert other.exists()


def test_events_on_an_object_store_are_cut_in_the_same_way() -> None:
    files = fsspec.filesystem("memory")
    for start, steps in ((0, [10, 20]), (10, [20, 30])):
        log = EventLog("memory://event-log-test/train")
        log.open(step=start)
        for step in steps:
            log.append({"step": step, "loss": 0.5})
            log.flush()
    paths = sorted(files.ls("/event-log-test/train", detail=False))
    records = [r for path in paths for r in _complete_records(files.cat_file(path))]
    steps = [tf.compat.v1.Event.FromString(record).step for record in records]
    assert steps == [0, 10, 0, 20, 30]


def test_a_record_is_written_as_tensorflow_writes_it(tmp_path: Path) -> None:
    path = str(tmp_path / "theirs")
    with tf.io.TFRecordWriter(path) as writer:
        for record in (b"", b"some bytes"):
            writer.write(record)
    assert Path(path).read_bytes() == _to_record(b"") + _to_record(b"some bytes")


def test_a_resume_on_an_object_store_keeps_the_events_before_it(
    fake_gcs: FakeGcs, tmp_path: Path
) -> None:
    url = "gs://bucket/run/metrics/train"
    for start, steps in ((0, [10, 20]), (10, [20, 30])):
        log = EventLog(url)
        log.open(step=start)
        for step in steps:
            log.append({"step": step, "loss": step / 4})
        log.flush()
    fsspec.filesystem("gs", use_listings_cache=False).get(
        url, str(tmp_path / "metrics" / "train"), recursive=True
    )
    assert [step for step, _ in event_lines(tmp_path, "train")] == [10, 20, 30]
