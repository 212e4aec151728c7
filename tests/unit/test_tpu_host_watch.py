"""A host counts as gone after so many unanswered knocks in a row, not before."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.workers import free_ports

from resumable_tf.tpu.host_watch import WatchSettings, wait_for_loss

ROOT = Path(__file__).resolve().parents[2]


class Hosts:
    """Hosts that answer by a plan, and the time that passes."""

    def __init__(self, **answers: Sequence[bool]) -> None:
        self._answers = {name: iter(plan) for name, plan in answers.items()}
        self.num_sleeps = 0

    def knock(self, address: str, timeout_secs: float) -> bool:
        return next(self._answers[address])

    def sleep(self, secs: float) -> None:
        self.num_sleeps += 1


@pytest.mark.parametrize(
    ("plan", "num_sleeps"),
    [("000", 2), ("1000", 3), ("001000", 5), ("0100101000", 9)],
)
def test_a_host_is_gone_after_three_misses_in_a_row(plan: str, num_sleeps: int) -> None:
    b = [answer == "1" for answer in plan]
    hosts = Hosts(a=[True] * (len(b) + 1), b=b)
    settings = WatchSettings(num_misses=3)
    lost = wait_for_loss(["a", "b"], settings, knock=hosts.knock, sleep=hosts.sleep)
    assert (lost, hosts.num_sleeps) == ("b", num_sleeps)


def test_misses_of_different_hosts_are_not_added_up() -> None:
    hosts = Hosts(
        a=[False, True, False, True, True], b=[True, False, True, False, False]
    )
    settings = WatchSettings(num_misses=2)
    lost = wait_for_loss(["a", "b"], settings, knock=hosts.knock, sleep=hosts.sleep)
    assert (lost, hosts.num_sleeps) == ("b", 4)


def test_a_process_that_waits_for_a_lost_host_ends_with_69_and_says_why() -> None:
    code = (
        "import logging, sys, threading\n"
        "logging.basicConfig()\n"
        "from resumable_tf.tpu.host_watch import WatchSettings, watch_hosts\n"
        "settings = WatchSettings(0.01, 1.0, 2, grace_secs=0.2)\n"
        "watch_hosts(sys.argv[1:], settings)\n"
        "print('watching', flush=True)\n"
        "threading.Event().wait()\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-c", code, f"127.0.0.1:{port}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        for _ in range(20):
            one.accept()[0].close()
        assert process.poll() is None
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 69
    assert f"lost host 127.0.0.1:{port} of this training" in errors


def test_a_host_that_was_never_there_is_lost() -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    begin = time.monotonic()
    settings = WatchSettings(every_secs=0.0, timeout_secs=5.0, num_misses=3)
    assert wait_for_loss([address], settings) == address
    assert time.monotonic() - begin < 15.0
