"""The whole group of a supervised program gets the time to save; every kill is told.

Guards against a shell in front of a training that ends at once, so that the training
behind it is killed after seconds, without a word. And against programs that can't be
executed at all being started again and again.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from resumable_tf.supervising.events import Events
from resumable_tf.supervising.restarts import RestartPolicy
from resumable_tf.supervising.supervisor import Settings, Supervisor

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.crash
SAVE_SECS = 7.0
"""More than what a training that has ended gives its helpers."""

SLOW = """
import os, pathlib, signal, sys, time
sys.path.insert(0, sys.argv[3])
from resumable_tf.supervising.heartbeat import Heartbeat
here, secs = pathlib.Path(sys.argv[1]), float(sys.argv[2])
def save(number, frame):
    signal.signal(number, signal.SIG_IGN)
    time.sleep(secs)
    (here / "saved").touch()
    os._exit(75)
signal.signal(signal.SIGTERM, save)
heartbeat = Heartbeat(None if "SILENT" in os.environ else
                      os.environ["RESUMABLE_TF_HEARTBEAT"])
heartbeat.start()
heartbeat.beat(3)
(here / "up").write_text(str(os.getpid()))
while True:
    time.sleep(0.05)
"""
WRAPPERS = {
    "none": "exec {}",
    "shell": "{}; true",
    "shell in a shell": "sh -c '{}; true'; true",
    "shell that ignores": "trap '' TERM; {}; exit $?",
    "shell that waits": "trap 'true' TERM; {}; exit 75",
    "env": "env A=1 {}; true",
    "nohup": "nohup {}; true",
    "launcher": "python -c 'import subprocess, sys; subprocess.call(sys.argv[1:])' {}",
    "background": "{} & wait",
}


class Stopped:
    """A supervisor in this process that is asked to stop once the program runs."""

    def __init__(
        self, directory: Path, script: str, *, secs: float, stop_secs: float
    ) -> None:
        slow = directory / "slow.py"
        slow.write_text(SLOW)
        words = [sys.executable, str(slow), str(directory), str(secs), str(ROOT)]
        line = script.replace("python -c", f"{sys.executable} -c")
        command = ["sh", "-c", line.replace("{}", shlex.join(words))]
        self.lines: list[str] = []
        settings = Settings(
            command=command,
            restarts=RestartPolicy(max_fruitless=0, first_delay_secs=0.01),
            stop_secs=stop_secs,
            poll_secs=0.02,
        )
        self.up = directory / "up"
        threading.Thread(target=self._ask, daemon=True).start()
        self.code = Supervisor(settings, Events(self.lines.append)).run()

    def _ask(self) -> None:
        ends = time.monotonic() + 60
        while not (self.up.exists() and self.up.read_text()):
            assert time.monotonic() < ends
            time.sleep(0.01)
        time.sleep(0.3)  # For the supervisor to read who trains.
        os.kill(os.getpid(), signal.SIGTERM)

    def events(self, name: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.lines]
        return [event for event in found if event["event"] == name]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_training_behind_a_wrapper_is_asked_and_saves(
    wrapper: str, tmp_path: Path
) -> None:
    stopped = Stopped(tmp_path, WRAPPERS[wrapper], secs=0.5, stop_secs=60.0)
    assert stopped.code == 75
    assert (tmp_path / "saved").exists()
    assert not stopped.events("killed")


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
def test_a_slow_save_behind_a_shell_gets_all_its_time(
    silent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if silent:
        monkeypatch.setenv("SILENT", "1")
    stopped = Stopped(tmp_path, WRAPPERS["shell"], secs=SAVE_SECS, stop_secs=60.0)
    assert stopped.code == 75
    assert (tmp_path / "saved").exists()
    assert not stopped.events("killed")


def test_one_that_takes_too_long_behind_a_shell_is_killed_with_an_event(
    tmp_path: Path,
) -> None:
    stopped = Stopped(tmp_path, WRAPPERS["shell"], secs=60.0, stop_secs=0.5)
    assert stopped.code == 75
    (killed,) = stopped.events("killed")
    assert "left running" in killed["reason"]
    # Killed is not gone yet: the kernel takes a moment.
    ends = time.monotonic() + 30
    while is_running(stopped.up.read_text()):
        assert time.monotonic() < ends
        time.sleep(0.02)


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def unusable(directory: Path, kind: str) -> list[str]:
    """Returns a command that can't be executed."""
    path = directory / "train.py"
    content = {
        "CR LF": b"#!/usr/bin/env python3\r\nprint()\r\n",
        "CR LF, direct": b"#!/bin/sh\r\ntrue\r\n",
        "no shebang": b"print('hello')\n",
        "no interpreter": b"#!/no/such/python\n",
        "empty": b"",
        "not executable": b"#!/bin/sh\n",
        "binary of another machine": b"\x7fELF\x02\x01\x01" + bytes(60),
    }
    if kind == "directory":
        return [str(directory)]
    if kind == "behind a shell":
        return ["sh", "-c", "no-such-program-anywhere"]
    if kind == "no such program":
        return ["no-such-program-anywhere"]
    path.write_bytes(content[kind])
    path.chmod(0o644 if kind == "not executable" else 0o755)
    return [str(path)]


@pytest.mark.parametrize(
    "kind",
    [
        "CR LF",
        "CR LF, direct",
        "no shebang",
        "no interpreter",
        "empty",
        "not executable",
        "binary of another machine",
        "directory",
        "behind a shell",
        "no such program",
    ],
)
def test_what_can_not_be_executed_is_wrong_usage(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "resumable_tf", "run"]
    command += ["--first-delay-secs", "0.01", "--", *unusable(tmp_path, kind)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = json.loads(done.stderr.splitlines()[-1])
    assert "can't be started" in last["reason"]
