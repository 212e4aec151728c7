"""Of two processes on one run directory only one saves, whatever happens to the other.

Guards against a supervisor that starts a job twice, against a run that can't be
continued because a dead process held it, and against a process that was stopped, taken
for dead, replaced, and wakes up. All holders are real processes; `gs://` is a fake
Google Cloud Storage over HTTP.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.fake_gcs import FakeGcs
from helpers.fake_gcs_faults import Fault
from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer, lease
from resumable_tf.errors import FencedOffError, RunInUseError, SaveError
from resumable_tf.storage import open_storage

TESTS = Path(__file__).parent.parent
TTL_SECS = 2.0
pytestmark = pytest.mark.crash


class Process:
    """A process that holds a run, or was refused."""

    def __init__(self, url: str) -> None:
        path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helpers.hold_run", url, f"--ttl={TTL_SECS}"],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pid = self._process.pid

    def answer(self) -> str:
        return self._process.stdout.readline().strip()

    def tell(self, command: str) -> None:
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def ask(self, command: str) -> str:
        self.tell(command)
        return self.answer()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        self.send(signal.SIGKILL)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture(params=["local", "gs"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "run")
    request.getfixturevalue("fake_gcs")
    return "gs://bucket/run"


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TTL_SECS", TTL_SECS)


@pytest.fixture
def holder(url: str) -> Iterator[Process]:
    process = Process(url)
    try:
        assert process.answer() == "holds 0"
        assert process.ask("save") == "saved 1"
        yield process
    finally:
        process.end()


def continue_run(url: str, *, from_step: int) -> None:
    """Restores, exactly, and saves one more step."""
    state = small_state()
    with Checkpointer(url) as checkpointer:
        checkpointer.restore_or_initialize(state)
        assert_at_step(state, from_step)
        advance(state)
        checkpointer.save(state)


def test_a_second_process_is_refused_while_the_first_lives(
    url: str, holder: Process
) -> None:
    begin = time.monotonic()
    with pytest.raises(RunInUseError, match="or give another run directory") as error:
        Checkpointer(url).restore_or_initialize(small_state())
    assert time.monotonic() - begin < TTL_SECS + 1.0
    assert error.value.pid == holder.pid
    assert f"kill {holder.pid}" in str(error.value)
    # Reading is free, and the holder has noticed nothing.
    Checkpointer(url).restore(state := small_state())
    assert_at_step(state, 1)
    with pytest.raises(RunInUseError):
        Checkpointer(url).save(state)
    assert holder.ask("save") == "saved 2"
    # Given back, it is free at once.
    assert holder.ask("close") == "closed"
    continue_run(url, from_step=2)


def test_a_killed_holder_is_replaced_at_once(
    url: str, holder: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after the lease has run out: the same command must continue."""
    monkeypatch.setattr(lease, "TTL_SECS", 1000.0)
    name = lease.LEASE_FILE
    holder.send(signal.SIGKILL)
    record = json.loads(open_storage(url).read_bytes(name))
    assert record["holder"]["pid"] == holder.pid
    while not lease.LeaseRecord.from_bytes(
        open_storage(url).read_bytes(name)
    ).holder.is_dead():
        time.sleep(0.01)  # It dies in its own time.
    begin = time.monotonic()
    continue_run(url, from_step=1)
    assert time.monotonic() - begin < TTL_SECS
    assert not open_storage(url).exists(name)


STOPPED = {
    "between saves": "",
    "in an upload": "multipart(?!.*ifGeneration)",
    "while it proves that it holds the run": "media.*ifGenerationMatch",
    "after that, in front of the manifest": "multipart.*ifGenerationMatch=0",
}


@pytest.mark.parametrize(
    "stopped",
    [
        name if "proves" in name else pytest.param(name, marks=pytest.mark.slow)
        for name in STOPPED
    ],
)
@pytest.mark.parametrize("url", ["gs"], indirect=True)
def test_a_stopped_holder_that_wakes_up_can_not_commit(
    url: str, holder: Process, fake_gcs: FakeGcs, stopped: str
) -> None:
    """SIGSTOP for longer than the lease lasts; another process takes over."""
    if STOPPED[stopped]:
        fake_gcs.plan.clear()
        # gcsfs waits for a second before it tries again.
        fake_gcs.plan.add(Fault("reset", match=STOPPED[stopped]))
        holder.tell("save")
        while fake_gcs.plan.num_injected == 0:
            time.sleep(0.001)
    holder.send(signal.SIGSTOP)
    before = committed(fake_gcs)
    continue_run(url, from_step=1)
    after = committed(fake_gcs)
    assert after == before | {"run/checkpoints/ckpt-2.manifest.json"}
    generations = manifest_generations(fake_gcs)
    holder.send(signal.SIGCONT)
    if not STOPPED[stopped]:
        holder.tell("save")
    answer = holder.answer()
    if "manifest" in stopped:
        assert answer.startswith("failed FileExistsError"), answer
    else:
        assert answer.startswith("failed FencedOffError"), answer
        assert "lost gs://bucket/run" in answer
    assert holder.ask("save").startswith("failed FencedOffError")
    assert manifest_generations(fake_gcs) == generations
    continue_run(url, from_step=2)


def committed(server: FakeGcs) -> set[str]:
    return {n for n in server.store.objects("bucket") if n.endswith("manifest.json")}


def manifest_generations(server: FakeGcs) -> dict[str, int]:
    objects = server.store.objects("bucket")
    return {name: objects[name].generation for name in committed(server)}


def test_two_checkpointers_of_one_process_follow_each_other(url: str) -> None:
    """The same process takes its own lease again; the older one is fenced off."""
    state = small_state()
    older, newer = Checkpointer(url), Checkpointer(url)
    older.restore_or_initialize(state)
    advance(state)
    older.save(state).result()
    newer.restore_or_initialize(state)
    advance(state)
    with pytest.raises(SaveError) as error:
        older.save(state).result()
    assert isinstance(error.value.__cause__, FencedOffError)
    newer.save(state).result()
    older.close()
    newer.close()
    assert [info.step for info in newer.checkpoints()] == [1, 2]
