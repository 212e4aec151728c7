"""A supervised program is really killed, hung and stopped, and ends where it should.

Guards against a supervisor that starts what can't work again and again, gives up what
could go on, loses the save of a program that it stops, or leaves processes behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_metadata import FakeMetadata
from helpers.supervised import NUM_STEPS

from resumable_tf.supervising.events import FIELDS, Events
from resumable_tf.supervising.restarts import RestartPolicy
from resumable_tf.supervising.supervisor import Settings, Supervisor
from resumable_tf.supervising.watchdog import WatchdogSettings

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.crash
RUN = (sys.executable, "-m", "resumable_tf", "run")
FAST = RestartPolicy(max_fruitless=2, first_delay_secs=0.01, max_delay_secs=0.02)


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")


def program(directory: Path, *plan: str) -> list[str]:
    return [sys.executable, "-m", "helpers.supervised", str(directory), *plan]


def supervise(
    directory: Path, *plan: str, **changes: Any
) -> tuple[int, list[dict[str, Any]]]:
    """Supervises the program in this process; returns the exit code and the events."""
    lines: list[str] = []
    settings = {"restarts": FAST, "poll_secs": 0.02, **changes}
    settings = Settings(command=program(directory, *plan), **settings)
    code = Supervisor(settings, Events(lines.append)).run()
    events = [json.loads(line) for line in lines]
    for event in events:
        assert set(event) == {"time", "event", *FIELDS[event["event"]]}
    return code, events


def only(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


def assert_each_step_once(directory: Path) -> None:
    steps = (directory / "steps").read_text().split()
    assert steps == [str(step) for step in range(1, NUM_STEPS + 1)]


def test_whatever_ends_the_program_it_goes_on_until_it_is_finished(
    tmp_path: Path,
) -> None:
    plan = ("75@2", "1@4", "-9@6", "-11@8", "75@10", "done")
    code, events = supervise(tmp_path, *plan)
    assert code == 0
    ends = [event["how"] for event in only(events, "ended")]
    assert ends == [
        "preempted",
        "crashed with exit code 1",
        "killed by SIGKILL",
        "killed by SIGSEGV",
        "preempted",
        "finished",
    ]
    assert [event["event"] for event in events[-2:]] == ["ended", "stopped"]
    assert events[-1]["num_starts"] == len(plan)
    assert_each_step_once(tmp_path)


def test_a_crash_loop_ends_after_the_stated_restarts(tmp_path: Path) -> None:
    code, events = supervise(tmp_path, "75@3", "1@5", "1@5", "1@5", "done")
    assert code == 70
    assert "2 restarts brought no step beyond 5" in events[-1]["reason"]
    assert len(only(events, "started")) == 4


def test_wrong_usage_is_not_tried_again(tmp_path: Path) -> None:
    code, events = supervise(tmp_path, "2@3", "done")
    assert (code, len(only(events, "started"))) == (2, 1)


def test_a_program_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    lines: list[str] = []
    settings = Settings(command=[str(tmp_path / "nothing")])
    assert Supervisor(settings, Events(lines.append)).run() == 2
    assert "can't be started" in lines[-1]


def test_an_error_of_its_own_leaves_no_program_and_is_no_wrong_usage(
    tmp_path: Path,
) -> None:
    started: list[int] = []

    def write(line: str) -> None:
        started.append(json.loads(line)["pid"])
        raise OSError("injected")

    command = program(tmp_path, "hang@1")
    supervisor = Supervisor(Settings(command=command, poll_secs=0.02), Events(write))
    with pytest.raises(OSError, match="injected"):
        supervisor.run()
    with pytest.raises(ProcessLookupError):
        os.killpg(started[0], 0)


def test_the_program_ignores_no_signals_that_python_ignores() -> None:
    found = "grep SigIgn: /proc/$$/status"
    pipe, size = (1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ))
    check = f"test $((0x$({found} | cut -f2) & {pipe | size})) = 0"
    settings = Settings(command=["sh", "-c", check], restarts=FAST)
    assert Supervisor(settings, Events(lambda line: None)).run() == 0


def test_events_that_can_not_be_written_end_nothing(tmp_path: Path) -> None:
    flags = ("--events", "/dev/full", "--first-delay-secs", "0.01", "--")
    done = subprocess.run(
        [*RUN, *flags, *program(tmp_path, "75@3", "done")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    (lost,) = only(events, "events_lost")
    assert lost["file"] == "/dev/full" and "No space left" in lost["reason"]
    assert len(only(events, "ended")) == 2
    assert_each_step_once(tmp_path)


def test_without_heartbeats_crashes_are_counted_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SILENT", "1")
    code, events = supervise(tmp_path, "1@2", "1@4", "1@6", "done")
    assert code == 70
    assert len(only(events, "no_heartbeat")) == 3
    assert events[-1]["best_step"] is None


@pytest.mark.parametrize("kind", ["hang", "deaf"])
def test_a_hang_shows_its_stacks_and_is_started_again(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    watchdog = WatchdogSettings(factor=3.0, min_secs=0.5)
    code, events = supervise(
        *(tmp_path, f"{kind}@8", "done"),
        watchdog=watchdog,
        dump_secs=0.3,
        stop_secs=0.3,
    )
    assert code == 0
    (hung,) = only(events, "hung")
    assert hung["step"] == 8
    assert hung["silence_secs"] >= hung["limit_secs"] >= 0.5  # Rounded.
    assert "in wait_for_a_lost_partner" in capfd.readouterr().err
    # One that can still save is let to; the deaf one is killed.
    expected = {"hang": 75, "deaf": -signal.SIGKILL}
    assert only(events, "ended")[0]["exit_code"] == expected[kind]
    assert len(only(events, "killed")) == (kind == "deaf")
    assert only(events, "restart")[0]["reason"] == "hung"
    assert_each_step_once(tmp_path)


def test_what_a_program_leaves_running_is_ended(tmp_path: Path) -> None:
    code, _ = supervise(tmp_path, "helper@3", "done")
    assert code == 0
    helper = int((tmp_path / "helper").read_text())
    status = Path(f"/proc/{helper}/stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"


@contextlib.contextmanager
def command(
    directory: Path, *plan: str, flags: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Yields `resumable-tf run`, a process of its own."""
    events = ("--events", str(directory / "events"))
    process = subprocess.Popen(
        [*RUN, *events, *flags, "--", *program(directory, *plan)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(what: Callable[[], Any], timeout_secs: float = 60.0) -> Any:
    """Waits until something is true; fails after a while."""
    ends = time.monotonic() + timeout_secs
    while not (found := what()):
        assert time.monotonic() < ends
        time.sleep(0.01)
    return found


def logged(directory: Path) -> list[dict[str, Any]]:
    path = directory / "events"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_the_supervisor_ends_with_75_after_the_save(
    number: signal.Signals, tmp_path: Path
) -> None:
    with command(tmp_path, "wait@4", "done") as process:
        wait_for((tmp_path / "waiting").exists)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 75
    assert logged(tmp_path) == [json.loads(line) for line in errors.splitlines()]
    (sent,) = only(logged(tmp_path), "signal")
    assert sent["signal"] == number.name
    assert only(logged(tmp_path), "ended")[0]["exit_code"] == 75
    code, _ = supervise(tmp_path, "done")
    assert code == 0
    assert_each_step_once(tmp_path)


def test_a_second_signal_forces(tmp_path: Path) -> None:
    with command(tmp_path, "slow@4", "done") as process:
        wait_for((tmp_path / "waiting").exists)
        process.send_signal(signal.SIGTERM)
        wait_for((tmp_path / "saving").exists)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 75
    assert only(logged(tmp_path), "ended")[0]["exit_code"] == -signal.SIGTERM


def test_a_program_that_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    with command(tmp_path, "slow@4", flags=("--stop-secs", "0.3")) as process:
        wait_for((tmp_path / "waiting").exists)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 75
    assert only(logged(tmp_path), "ended")[0]["exit_code"] == -signal.SIGKILL
    assert len(only(logged(tmp_path), "killed")) == 1


def test_a_signal_while_it_waits_for_a_restart_ends_it_at_once(tmp_path: Path) -> None:
    flags = ("--first-delay-secs", "250")
    with command(tmp_path, "1@4", "done", flags=flags) as process:
        wait_for((tmp_path / "events").exists)
        wait_for(lambda: only(logged(tmp_path), "restart"))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 75
    assert len(only(logged(tmp_path), "started")) == 1


def test_on_a_machine_that_is_being_preempted_nothing_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_GCE_CHECK")
    with FakeMetadata() as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.host)
        with command(tmp_path, "75@2", "wait@4", "done") as process:
            wait_for((tmp_path / "waiting").exists)
            server.values["instance/preempted"] = "TRUE"
            os.kill(only(logged(tmp_path), "started")[1]["pid"], signal.SIGTERM)
            process.communicate(timeout=60)
            assert process.returncode == 75
    assert len(only(logged(tmp_path), "started")) == 2
    assert logged(tmp_path)[-1]["reason"] == "this machine is being preempted"


def test_a_supervisor_that_is_killed_leaves_no_program_unwatched(
    tmp_path: Path,
) -> None:
    """Otherwise the next supervisor would start a second training beside the first."""
    with command(tmp_path, "wait@4", "done") as process:
        wait_for((tmp_path / "waiting").exists)
        (started,) = only(logged(tmp_path), "started")
        process.kill()
        process.wait()
        wait_for(lambda: not _is_running(started["pid"]))
    code, _ = supervise(tmp_path, "done")
    assert code == 0
    assert_each_step_once(tmp_path)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_settings_that_cannot_work_exit_with_2_before_anything_is_started(
    tmp_path: Path,
) -> None:
    for flags in (("--hang-factor", "0"), ("--events", str(tmp_path / "no" / "file"))):
        done = subprocess.run(
            [*RUN, *flags, "--", "true"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert done.returncode == 2
        assert f"UsageError: {flags[0]}" in done.stderr
