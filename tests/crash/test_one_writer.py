"""Of two processes on one run directory only one saves, whatever happens to the other.

Guards against a supervisor that starts a job twice, against a run that can't be
continued because a dead process held it, and against a process that was stopped, taken
for dead, replaced, and wakes up. All holders are real processes; `gs://` is a fake
Google Cloud Storage over HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.fake_gcs import FakeGcs
from helpers.fake_gcs_faults import Fault
from helpers.small_state import advance, assert_at_step, small_state, values

from resumable_tf.checkpoint import Checkpointer, direct_bundle, lease
from resumable_tf.checkpoint.integrity import verify_step
from resumable_tf.errors import FencedOffError, RunInUseError, SaveError
from resumable_tf.storage import gcs_parts, open_storage
from resumable_tf.storage.direct_file import DirectFile

TESTS = Path(__file__).parent.parent
TTL_SECS = 2.0
pytestmark = pytest.mark.crash


class Process:
    """A process that holds a run, or was refused."""

    def __init__(self, url: str, *options: str) -> None:
        path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        command = [sys.executable, "-m", "helpers.hold_run", url, f"--ttl={TTL_SECS}"]
        self._process = subprocess.Popen(
            [*command, *options],
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
    with holding(url) as process:
        yield process


@contextlib.contextmanager
def holding(url: str, *options: str) -> Iterator[Process]:
    process = Process(url, *options)
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
    "in an upload": r"POST /upload.*ckpt-2\.(index|data)",
    "while it proves that it holds the run": "lease.*ifGenerationMatch",
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


PART_BYTES = 64 * 2**10
SIZES = {"small": 1000, "in parts": 100_000}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("url", ["gs"], indirect=True)
def test_a_stopped_upload_leaves_the_bits_of_another_alone(
    url: str, fake_gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    """The other one saves other bits at the same step, as other replicas would."""
    monkeypatch.setattr(gcs_parts, "_PART_BYTES", PART_BYTES)
    monkeypatch.setattr(gcs_parts, "MIN_BYTES", PART_BYTES)
    match, times = r"POST /upload.*ckpt-2\.(index|data)", 2
    if size == "in parts":
        match, times = r"POST /upload.*parts.*ckpt-2\.data", 4
    options = (f"--size={SIZES[size]}", f"--part-bytes={PART_BYTES}")
    with holding(url, *options) as holder:
        fake_gcs.plan.clear()
        # All that go side by side; gcsfs waits for a second before it tries again.
        fake_gcs.plan.add(Fault("reset", match=match, times=times))
        holder.tell("save")
        while fake_gcs.plan.num_injected < times:
            time.sleep(0.001)
        holder.send(signal.SIGSTOP)
        expected = save_other_bits(url, size=SIZES[size])
        holder.send(signal.SIGCONT)
        answer = holder.answer()
        assert_holds(url, expected)
        assert answer.startswith("failed FileExistsError: gs://bucket/run/"), answer
        assert "ckpt-2" in answer
        assert "another process" in answer
        assert holder.ask("save").startswith("failed FencedOffError")
    assert_holds(url, expected)


@pytest.mark.parametrize("is_lost", ["between files", "before all"])
def test_a_local_writer_that_was_overtaken_leaves_the_bits_of_the_other_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lost: str
) -> None:
    """As on a file system of several hosts; here both are in one process."""
    url, expected = str(tmp_path), []
    state = small_state()
    older = Checkpointer(url)
    older.restore_or_initialize(state)
    advance(state)
    older.save(state).result()

    def overtake() -> None:
        monkeypatch.undo()
        expected.extend(save_other_bits(url, size=SIZES["small"]))

    class Overtaken(DirectFile):
        def __init__(self, path: str, *, bypasses_cache: bool) -> None:
            if is_lost == "before all":
                overtake()
            super().__init__(path, bypasses_cache=bypasses_cache)

        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            if is_lost == "between files":
                overtake()

    monkeypatch.setattr(direct_bundle, "DirectFile", Overtaken)
    advance(state)
    with pytest.raises(SaveError) as error:
        older.save(state).result()
    assert_holds(url, expected)
    assert isinstance(error.value.__cause__, FileExistsError)
    assert str(tmp_path / "checkpoints" / "ckpt-2") in str(error.value)
    older.close()


def save_other_bits(url: str, *, size: int) -> list[Any]:
    """Goes on from step 1 and saves a step 2 like no other; returns its values."""
    state = small_state(size=size)
    with Checkpointer(url) as checkpointer:
        checkpointer.restore_or_initialize(state)
        advance(state)
        state.trackables["small"].weights.assign_add(tf.ones(size))
        checkpointer.save(state)
    return values(state)


def assert_holds(url: str, expected: list[Any]) -> None:
    """Checks that step 2 is sound and has these values."""
    assert verify_step(open_storage(url), 2).is_good
    state = small_state(size=max(one.size for one in expected))
    Checkpointer(url).restore(state)
    assert state.step == 2
    for one, other in zip(values(state), expected, strict=True):
        np.testing.assert_array_equal(one, other)


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
