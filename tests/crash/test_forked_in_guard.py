"""A process that is forked inside a guard ends as it would without one.

Guards against helpers that take over the guard's handlers: `terminate()` would do
nothing, and a program with daemons would never end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.crash

HEAD = """
import multiprocessing, os, signal, subprocess, sys, threading, time
from resumable_tf.training.preemption import PreemptionGuard
fork = multiprocessing.get_context("fork")
def work():
    print("up", os.getpid(), flush=True)
    while True:
        time.sleep(0.05)
def ended(process, secs=4.0):
    process.join(secs)
    code = process.exitcode
    if code is None:
        process.kill()
    return code
def begin(**arguments):
    process = fork.Process(target=work, **arguments)
    process.start()
    time.sleep(0.2)
    return process
"""
BODIES = {
    "terminate": """
with PreemptionGuard(sources=()) as guard:
    process = begin()
    process.terminate()
    assert ended(process) == -15
    assert guard.requested is None
""",
    "nested": """
with PreemptionGuard(sources=()), PreemptionGuard(sources=()):
    process = begin()
    process.terminate()
    assert ended(process) == -15
""",
    "former handler": """
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
with PreemptionGuard(sources=()):
    process = begin()
    process.terminate()
    assert ended(process) == 7
""",
    "from a thread": """
with PreemptionGuard(sources=()):
    found = []
    def start():
        process = begin()
        process.terminate()
        found.append(ended(process))
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert found == [-15], found
""",
    "after the request": """
with PreemptionGuard(sources=()) as guard:
    os.kill(os.getpid(), signal.SIGTERM)
    assert guard.requested.name == "SIGTERM"
    process = begin()
    process.terminate()
    assert ended(process) == -15
""",
    "pool": """
with PreemptionGuard(sources=()):
    with fork.Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
        workers = list(pool._pool)
    assert None not in [ended(worker) for worker in workers]
""",
    "fork and exec": """
with PreemptionGuard(sources=()):
    pid = os.fork()
    if pid == 0:
        os.execvp("sleep", ["sleep", "30"])
    time.sleep(0.3)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -15
""",
    "leaves the guard": """
with PreemptionGuard(sources=()) as guard:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
        guard.__exit__(None, None, None)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    os.kill(os.getpid(), signal.SIGTERM)
    assert guard.requested is not None
""",
    "guard of its own": """
def guarded():
    with PreemptionGuard(sources=()) as guard:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(5 if guard.requested else 1)
with PreemptionGuard(sources=()) as guard:
    process = fork.Process(target=guarded)
    process.start()
    assert ended(process) == 5
    assert guard.requested is None
""",
    "Ctrl-C for the child alone": """
with PreemptionGuard(sources=()) as guard:
    process = begin()
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)
    assert ended(process, 10) == 1
    assert guard.requested is None
""",
    "Ctrl-C for all": """
with PreemptionGuard(sources=()) as guard:
    process = begin()
    os.killpg(0, signal.SIGINT)
    assert guard.requested.name == "SIGINT"
    assert process.is_alive()
    time.sleep(0.3)
    assert process.is_alive()
assert ended(process) == 1
""",
}


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + body],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
        check=False,
    )


@pytest.mark.parametrize("kind", BODIES)
def test_a_forked_process_ends_as_without_a_guard(kind: str) -> None:
    done = run(BODIES[kind])
    assert done.returncode == 0, done.stderr


def test_a_program_with_daemons_ends() -> None:
    began = time.monotonic()
    done = run("with PreemptionGuard(sources=()):\n    begin(daemon=True)\n")
    assert done.returncode == 0, done.stderr
    pid = int(done.stdout.split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    assert time.monotonic() - began < 30
