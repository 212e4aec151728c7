"""Heartbeats, and the watchdog that judges them; time is a parameter."""

from __future__ import annotations

import dataclasses
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.errors import UsageError
from resumable_tf.supervising import heartbeat as heartbeat_module
from resumable_tf.supervising.heartbeat import (
    HEARTBEAT_VARIABLE,
    Beat,
    Heartbeat,
    create_heartbeat_file,
    parse_beat,
    read_beat,
)
from resumable_tf.supervising.watchdog import Watchdog, WatchdogSettings

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = str(tmp_path / "heartbeat")
    create_heartbeat_file(file)
    return file


def test_steps_are_written_once_a_second_at_most_and_never_when_nobody_listens(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    heartbeat = Heartbeat(path, clock=clock)
    seen = []
    for step in range(1, 40):
        clock.now += 0.125
        heartbeat.beat(step)
        seen.append(read_beat(path).step)
    assert seen[0] == 1
    assert sorted(set(seen)) == [1, 9, 17, 25, 33]
    heartbeat.pause(39)
    last = read_beat(path)
    assert (last.step, last.is_training) == (39, False)
    clock.now += 0.001  # Training goes on: that is news, whatever the time.
    heartbeat.beat(40)
    assert read_beat(path) == dataclasses.replace(
        last, step=40, is_training=True, time=clock.now
    )
    monkeypatch.delenv(HEARTBEAT_VARIABLE, raising=False)
    silent = Heartbeat.from_environment()
    silent.start()
    silent.beat(1)
    silent.pause()
    assert read_beat(path).step == 40


@given(
    step=st.none() | st.integers(0, 2**63),
    flags=st.tuples(st.booleans(), st.booleans()),
    time=st.floats(0, 1e12),
    cut=st.integers(0, 159),
)
def test_a_record_is_read_whole_or_not_at_all(
    step: int | None, flags: tuple[bool, bool], time: float, cut: int
) -> None:
    """Guards against a step that is put together of two records."""
    beat = Beat(step, *flags, time)
    record = heartbeat_module._to_record(beat)
    older = heartbeat_module._to_record(Beat(7, True, False, 123456.0))
    assert len(record) == len(older) == 160
    torn = record[:cut] + older[cut:]
    found = parse_beat(torn)
    assert found in (None, beat, Beat(7, True, False, 123456.0))
    if found == beat and torn != older:
        assert torn == record


def test_a_file_that_is_gone_is_a_warning_once_and_never_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heartbeat = Heartbeat(str(tmp_path / "gone"), every_secs=0.0)
    for step in range(3):
        heartbeat.beat(step)
    assert len(caplog.records) == 1
    assert "can't be told of steps" in caplog.text
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("is_used", [False, True])
def test_stacks_are_dumped_on_the_signal_unless_the_program_uses_it(
    path: str, is_used: bool
) -> None:
    code = (
        "import signal, time\n"
        "from resumable_tf.supervising.heartbeat import Heartbeat\n"
        f"if {is_used}: signal.signal(signal.SIGUSR1, lambda *_: print('own'))\n"
        "Heartbeat.from_environment().start()\n"
        "def where_it_hangs():\n"
        "    print('ready', flush=True)\n"
        "    signal.sigwait({signal.SIGTERM})\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "where_it_hangs()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, HEARTBEAT_VARIABLE: path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        beat = read_beat(path)
        assert beat.dumps_stacks is not is_used
        assert (beat.step, beat.is_training) == (None, False)
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert ("where_it_hangs" in errors) is not is_used


SETTINGS = WatchdogSettings(factor=10.0, min_secs=5.0, max_idle_secs=100.0)


def beat(step: int | None, *, is_training: bool = True) -> Beat:
    return Beat(step, is_training, True, 0.0)


@given(intervals=st.lists(st.floats(0.01, 50.0), min_size=1, max_size=50))
def test_a_silence_is_a_hang_beyond_a_multiple_of_the_median(
    intervals: list[float],
) -> None:
    watchdog = Watchdog(SETTINGS, now=0.0)
    now = 0.0
    watchdog.see(beat(0), now=now)
    for step, interval in enumerate(intervals, start=1):
        now += interval
        watchdog.see(beat(step), now=now)
        watchdog.see(beat(step), now=now + interval / 2)  # Read again, no news.
    limit = max(5.0, 10.0 * statistics.median(intervals))
    assert watchdog.limit_secs() == pytest.approx(limit)
    assert not watchdog.is_hung(now=now + limit * 0.99)
    assert watchdog.is_hung(now=now + limit * 1.01)


def test_a_program_without_heartbeats_never_hangs() -> None:
    watchdog = Watchdog(SETTINGS, now=0.0)
    assert watchdog.limit_secs() is None
    assert not watchdog.is_hung(now=1e9)


def test_outside_training_and_before_the_second_step_only_the_long_limit_holds() -> (
    None
):
    watchdog = Watchdog(SETTINGS, now=0.0)
    watchdog.see(beat(None, is_training=False), now=0.0)
    assert watchdog.limit_secs() == 100.0
    watchdog.see(beat(1), now=90.0)  # Compiling took long; it is not a usual step.
    assert watchdog.limit_secs() == 100.0
    watchdog.see(beat(2), now=91.0)
    assert watchdog.limit_secs() == 10.0
    watchdog.see(beat(2, is_training=False), now=92.0)  # The last save.
    assert watchdog.limit_secs() == 100.0
    assert not watchdog.is_hung(now=191.0)
    assert watchdog.is_hung(now=193.0)


def test_a_process_that_says_it_is_alive_but_makes_no_step_hangs() -> None:
    watchdog = Watchdog(SETTINGS, now=0.0)
    for step in range(3):
        watchdog.see(beat(step), now=float(step))
    for later in range(3, 20):
        watchdog.see(dataclasses.replace(beat(2), time=float(later)), now=float(later))
    assert watchdog.is_hung(now=20.0)


@pytest.mark.parametrize("name", ["factor", "min_secs", "max_idle_secs"])
def test_watchdog_settings_that_cannot_work_are_refused_by_flag(name: str) -> None:
    with pytest.raises(UsageError, match="--hang-" + name.replace("_", "-")):
        WatchdogSettings(**{name: 0.0})
