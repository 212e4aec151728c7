"""PreemptionGuard: sources, grace, agreement of hosts; nothing under way is lost."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_metadata import FakeMetadata
from helpers.saved_runs import steps_in
from helpers.small_state import advance, small_state
from hypothesis import given
from hypothesis import strategies as st

import resumable_tf as rtf
from resumable_tf.notices.metadata import metadata_pollers
from resumable_tf.supervising.heartbeat import (
    HEARTBEAT_VARIABLE,
    create_heartbeat_file,
    read_beat,
)
from resumable_tf.training.grace import (
    SAFETY,
    choose_tier,
    describe_grace,
    is_worth_a_try,
)

ROOT = Path(__file__).resolve().parents[2]
SECS = st.none() | st.floats(0.0, 1000.0)


def quiet_guard(**arguments: Any) -> rtf.PreemptionGuard:
    """Returns a guard that asks no metadata server."""
    return rtf.PreemptionGuard(sources=(), **arguments)


@given(left=st.floats(-10.0, 1000.0), durable=SECS, middle=SECS, fast=SECS)
def test_the_most_durable_tier_that_is_known_to_be_in_time_is_chosen(
    left: float, durable: float | None, middle: float | None, fast: float | None
) -> None:
    estimates = {"durable": durable, "middle": middle, "fast": fast}
    chosen = choose_tier(left, estimates)
    in_time = [
        name
        for name, secs in estimates.items()
        if secs is not None and secs * SAFETY <= left
    ]
    assert chosen == (in_time[0] if in_time else "fast")


@given(left=st.floats(-10.0, 1000.0), secs=SECS)
def test_what_was_chosen_is_worth_a_try_and_so_is_what_is_not_known(
    left: float, secs: float | None
) -> None:
    if secs is None or secs * SAFETY <= left:
        assert is_worth_a_try(left, secs) == (left > 0)
    if secs is not None and secs > left * SAFETY:
        assert not is_worth_a_try(left, secs)


def test_without_any_tier_there_is_nothing_to_choose() -> None:
    with pytest.raises(ValueError, match="no tier"):
        choose_tier(25.0, {})


@given(left=st.floats(-10, 100), took=SECS, step=st.none() | st.integers(0, 99))
def test_the_log_warns_exactly_if_a_save_may_be_cut_off(
    left: float, took: float | None, step: int | None
) -> None:
    text = describe_grace(left, took, step)
    is_short = took is not None and took * SAFETY > left
    assert ("may be cut off" in text) == is_short
    assert ("not known yet" in text) == (took is None)
    if is_short:
        assert text.endswith("none" if step is None else f"step {step}")


def test_the_first_request_counts_and_the_grace_runs_from_it() -> None:
    now = [100.0]
    with quiet_guard(grace_secs=25.0, clock=lambda: now[0]) as guard:
        assert guard.requested is None
        assert guard.grace_left_secs() == 25.0
        signal.raise_signal(signal.SIGTERM)
        now[0] = 110.0
        guard.request("preempted", "later")
        assert guard.requested.name == "SIGTERM"
        assert guard.grace_left_secs() == 15.0


def test_a_grace_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="grace_secs must be 0 or more, not -1"):
        rtf.PreemptionGuard(grace_secs=-1.0)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_although_a_save_is_waited_for(
    first: signal.Signals, second: signal.Signals
) -> None:
    """KeyboardInterrupt would wait for the save that it is to break off."""
    code = (
        "import itertools, signal, threading\n"
        # Tests that are started in the background may inherit that it is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from resumable_tf.training.preemption import PreemptionGuard\n"
        "thread = threading.Thread(target=threading.Event().wait)\n"
        "clock = itertools.count(0, 10).__next__\n"
        "with PreemptionGuard(sources=(), clock=clock) as guard:\n"
        "    print('ready', flush=True)\n"
        "    while not guard.requested: pass\n"
        "    thread.start()\n"
        "    print(guard.requested.name, flush=True)\n"
        "    thread.join()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stdout.readline() == f"{first.name}\n"
        process.send_signal(second)
        assert process.wait(60) == -second


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_sigterm_that_is_sent_twice_at_once_lets_the_save_be_done(
    first: signal.Signals,
) -> None:
    """A control group's end reaches the program itself, and through its supervisor."""
    now, heard = [100.0], []
    outer = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with quiet_guard(clock=lambda: now[0]) as guard:
            signal.raise_signal(first)
            for now[0] in (100.0, 100.9):
                signal.raise_signal(signal.SIGTERM)
            assert (guard.requested.name, guard.requested.time) == (first.name, 100.0)
            assert heard == []
            now[0] = 101.1
            signal.raise_signal(signal.SIGTERM)
            assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, outer)


def test_former_handlers_come_back_after_a_request_too() -> None:
    # A `fit` that has raised in another test may have left its own.
    outer = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with quiet_guard() as guard:
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert guard.requested.name == "SIGINT"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outer)


def test_the_metadata_servers_notice_becomes_a_save_and_exit_code_75(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_GCE_CHECK")
    state = small_state()
    with FakeMetadata() as server:
        monkeypatch.setenv("GCE_METADATA_HOST", server.host)
        with (
            rtf.Checkpointer(str(tmp_path)) as checkpointer,
            rtf.PreemptionGuard(sources=metadata_pollers(every_secs=0.01)) as guard,
            pytest.raises(rtf.Preempted, match="preempted: saved step") as caught,
        ):
            ends = time.monotonic() + 60
            while time.monotonic() < ends:
                advance(state)
                guard.after_step(state, checkpointer)
                if state.step == 3:
                    server.values["instance/preempted"] = "TRUE"
    assert caught.value.code == 75
    assert steps_in(tmp_path) == [caught.value.step]
    assert caught.value.step >= 3


def test_the_log_says_why_it_stops_and_what_time_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    now = [0.0]
    state = small_state()
    with (
        rtf.Checkpointer(str(tmp_path)) as checkpointer,
        quiet_guard(grace_secs=25.0, clock=lambda: now[0]) as guard,
    ):
        advance(state)
        checkpointer.save(state).result()
        checkpointer._tiers.durable.last_write_secs = 40.0
        guard.request("preempted", "the metadata server says: preempted TRUE")
        now[0] = 2.0
        advance(state)
        with pytest.raises(rtf.Preempted):
            guard.after_step(state, checkpointer)
    assert "preempted (the metadata server says: preempted TRUE)" in caplog.text
    assert "23.0 s left; the last save took 40.0 s" in caplog.text
    assert "the last checkpoint then stays: step 1" in caplog.text


class Hosts:
    """Adds up a flag over threads that stand for hosts."""

    def __init__(self, num_hosts: int) -> None:
        self._barrier = threading.Barrier(num_hosts)
        self._flags: list[bool] = []

    def any(self, flag: bool) -> bool:
        if self._barrier.wait(60) == 0:
            self._flags = []
        self._barrier.wait(60)
        self._flags.append(flag)  # One list, appended to by all.
        self._barrier.wait(60)
        return any(self._flags)


@given(asked_at=st.lists(st.none() | st.integers(1, 6), min_size=2, max_size=4))
def test_all_hosts_stop_at_the_same_step_whoever_hears_of_it_when(
    asked_at: list[int | None],
) -> None:
    hosts = Hosts(len(asked_at))
    stopped: dict[int, tuple[int, str] | None] = {}

    def train(host: int) -> None:
        guard = quiet_guard(agreement=hosts)
        state = rtf.TrainState()
        stopped[host] = None
        try:
            while state.step < 6:
                state.step += 1
                if state.step == asked_at[host]:
                    guard.request("preempted")
                guard.after_step(state, None)
        except rtf.Preempted as error:
            stopped[host] = (error.step, str(error).partition(":")[0])
        else:
            guard.finish(state.step)

    threads = [threading.Thread(target=train, args=(i,)) for i in range(len(asked_at))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    first = min((step for step in asked_at if step is not None), default=None)
    for host, end in stopped.items():
        if first is None:
            assert end is None
        else:
            name = "preempted" if asked_at[host] == first else "another host"
            assert end == (first, name)


def test_a_request_that_comes_while_the_hosts_agree_waits_for_the_next_step() -> None:
    class SignalMeanwhile:
        def any(self, flag: bool) -> bool:
            guard.request("SIGTERM")
            return flag

    guard = quiet_guard(agreement=SignalMeanwhile())
    assert guard.agreed() is None
    assert guard.agreed().name == "SIGTERM"


def test_the_supervisor_is_told_of_steps_and_of_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "heartbeat")
    create_heartbeat_file(path)
    monkeypatch.setenv(HEARTBEAT_VARIABLE, path)
    state = small_state()
    run_dir = str(tmp_path / "run")
    with rtf.Checkpointer(run_dir) as checkpointer, quiet_guard() as guard:
        beat = read_beat(path)
        assert (beat.step, beat.is_training, beat.dumps_stacks) == (None, False, True)
        advance(state)
        guard.after_step(state, checkpointer)
        assert (read_beat(path).step, read_beat(path).is_training) == (1, True)
        advance(state)
        guard.request("preempted")
        with pytest.raises(rtf.Preempted):
            guard.after_step(state, checkpointer)
    assert (read_beat(path).step, read_beat(path).is_training) == (2, False)
    os.kill(os.getpid(), signal.SIGUSR1)  # Would end the tests without a handler.
