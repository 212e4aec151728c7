"""Every fault of an object store at every request of every operation.

Guards against a write that is repeated although it must not be, one that is not
although it must, an error that is taken for an answer, and a wait without end. The
requests are real: gcsfs over HTTP to a fake Google Cloud Storage.
"""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_gcs import BUCKET, FakeGcs
from helpers.fake_gcs_faults import Fault

from resumable_tf.storage import ObjectStorage, gcs_parts
from resumable_tf.storage.retry import RetryPolicy

RUN = "gs://bucket/run"
BIG = bytes(range(256)) * (5 * 2**12) + b"more than 5 MiB"
LONG = BIG + b"goes in parts"
NO_WAIT = RetryPolicy(sleep=lambda secs: None)

# What passes: the operation must have its one effect, and no other.
PASSING: dict[str, dict[str, Any]] = {
    **{f"status {n}": {"kind": "status", "status": n} for n in (408, 429, 500, 502)},
    **{f"status {n}": {"kind": "status", "status": n} for n in (503, 504)},
    "status 503 after the effect": {"kind": "status-after", "status": 503},
    "reset": {"kind": "reset"},
    "reset after the effect": {"kind": "reset-after"},
    "reset after the effect, twice": {"kind": "reset-after", "times": 2},
    "outage of ten requests": {"kind": "status", "status": 503, "times": 10},
    "truncated": {"kind": "truncate", "match": "^(GET|POST)"},
    "slow": {"kind": "slow", "secs": 0.01},
}


def replace(storage: ObjectStorage, _: Path) -> Any:
    data, version = storage.read_version("old")
    newer = storage.replace("old", b"new", version=version)
    return data, storage.read_version("old") == (b"new", newer)


def delete_version(storage: ObjectStorage, _: Path) -> None:
    storage.delete_version("old", version=storage.read_version("old")[1])


OPERATIONS: dict[str, Callable[[ObjectStorage, Path], Any]] = {
    "read_bytes": lambda storage, _: storage.read_bytes("old"),
    "read_chunks": lambda storage, _: b"".join(storage.read_chunks("big")),
    "write_bytes": lambda storage, _: storage.write_bytes("old", b"new"),
    "upload": lambda storage, path: storage.upload("new", str(path / "small")),
    "upload in parts": lambda storage, path: storage.upload("new", str(path / "long")),
    "create": lambda storage, _: storage.create("new", b"mine"),
    "replace": replace,
    "delete_version": delete_version,
    "move": lambda storage, _: storage.move("old", "moved"),
    "delete": lambda storage, _: storage.delete("old"),
    "exists": lambda storage, _: storage.exists("old"),
    "exists not": lambda storage, _: storage.exists("none"),
    "size": lambda storage, _: storage.size("big"),
    "list": lambda storage, _: storage.list(""),
}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(_: float) -> None:
        return

    monkeypatch.setattr("gcsfs.retry.asyncio", types.SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(gcs_parts, "MIN_BYTES", len(LONG))
    monkeypatch.setattr(gcs_parts, "_PART_BYTES", 2 * 2**20)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "long").write_bytes(LONG)
    return tmp_path


def prepare(server: FakeGcs) -> ObjectStorage:
    for name in server.store.objects(BUCKET):
        server.store.delete(BUCKET, name)
    server.store.put(BUCKET, "run/old", b"old")
    server.store.put(BUCKET, "run/big", BIG)
    server.plan.clear()
    return ObjectStorage(RUN, retry=NO_WAIT)


def contents(server: FakeGcs) -> dict[str, bytes]:
    objects = server.store.objects(BUCKET)
    return {name: stored.data for name, stored in objects.items()}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_passing_fault_changes_nothing(
    fake_gcs: FakeGcs, files: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = OPERATIONS[name](prepare(fake_gcs), files)
    expected_contents = contents(fake_gcs)
    num_faults = 0
    for kind, fault in PASSING.items():
        for skip in range(20):
            storage = prepare(fake_gcs)
            fake_gcs.plan.add(Fault(**fault, skip=skip))
            assert OPERATIONS[name](storage, files) == expected, (kind, skip)
            assert contents(fake_gcs) == expected_contents, (kind, skip)
            if fake_gcs.plan.num_injected == 0:
                break
            num_faults += 1
        else:
            raise AssertionError(f"{kind}: {fake_gcs.plan.log}")
    assert num_faults >= len(PASSING) - 2
    with capsys.disabled():
        print(f"\n{name}: {num_faults} faults", end="")


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_lasting_fault_is_an_os_error_after_a_bounded_number_of_tries(
    fake_gcs: FakeGcs, files: Path, name: str
) -> None:
    for fault in (Fault("status", times=10**6), Fault("reset", times=10**6)):
        storage = prepare(fake_gcs)
        fake_gcs.plan.add(fault)
        with pytest.raises(OSError):
            OPERATIONS[name](storage, files)
        # gcsfs tries each request six times, at most four go side by side, and
        # aiohttp sends some once more when an old connection turns out closed.
        assert fake_gcs.plan.num_injected <= 3 * 6 * 4 * 2


@pytest.mark.parametrize("status", [400, 403, 404, 412, 416])
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_can_not_pass_is_not_tried_again(
    fake_gcs: FakeGcs, files: Path, name: str, status: int
) -> None:
    """A refusal of the first request ends the operation, or answers its question."""
    storage = prepare(fake_gcs)
    before = contents(fake_gcs)
    fake_gcs.plan.add(Fault("status", status=status, times=10**6))
    answers = {"exists", "exists not", "delete"}
    if status == 404 and (name in answers or name == "list"):
        if name != "list":
            assert not OPERATIONS[name](storage, files)
    else:
        with pytest.raises(OSError):
            OPERATIONS[name](storage, files)
    # One request; `create` also looks whether it finds its own object.
    assert fake_gcs.plan.num_injected <= 2
    assert contents(fake_gcs) == before


def test_a_lost_acknowledgement_is_told_from_anothers_object(
    fake_gcs: FakeGcs,
) -> None:
    storage = prepare(fake_gcs)
    fake_gcs.plan.add(Fault("reset-after", match="POST /upload"))
    storage.create("commit", b"mine")
    assert fake_gcs.plan.count("ifGenerationMatch=0") == 2
    fake_gcs.plan.add(Fault("reset", match="POST /upload"))
    with pytest.raises(FileExistsError):
        storage.create("commit", b"another's")
    _, version = storage.read_version("commit")
    fake_gcs.plan.add(Fault("reset-after", match="POST /upload"))
    newer = storage.replace("commit", b"mine again", version=version)
    assert storage.read_version("commit") == (b"mine again", newer)
    with pytest.raises(FileExistsError):
        storage.replace("commit", b"a third", version=version)


def test_create_is_one_conditional_request(fake_gcs: FakeGcs) -> None:
    prepare(fake_gcs).create("commit", b"mine")
    assert len(fake_gcs.plan.log) == 1
    assert "ifGenerationMatch=0" in fake_gcs.plan.log[0]


def test_only_the_lost_part_of_an_upload_is_sent_again(
    fake_gcs: FakeGcs, files: Path
) -> None:
    storage = prepare(fake_gcs)
    fake_gcs.plan.add(Fault("reset", match="POST /upload", skip=1))
    storage.upload("new", str(files / "long"))
    assert fake_gcs.plan.count("POST /upload") == 4
    assert contents(fake_gcs)["run/new"] == LONG


def test_a_write_whose_session_is_gone_begins_anew(fake_gcs: FakeGcs) -> None:
    """Of 50 MiB and more, which gcsfs sends in chunks of a session."""
    storage, data = prepare(fake_gcs), bytes(51 * 2**20)
    fake_gcs.plan.add(Fault("status", match="upload_id", skip=1, status=410))
    storage.write_bytes("new", data)
    assert fake_gcs.plan.count("POST /upload.*name=") == 2
    assert contents(fake_gcs)["run/new"] == data


def test_pieces_of_an_object_are_fetched_side_by_side(fake_gcs: FakeGcs) -> None:
    storage = prepare(fake_gcs)
    data = bytes(9 * 4 * 2**20)
    fake_gcs.store.put(BUCKET, "run/large", data)
    fake_gcs.plan.add(Fault("slow", match="media", secs=0.2, times=10))
    assert b"".join(storage.read_chunks("large")) == data
    assert fake_gcs.max_active == 4


def test_an_object_replaced_while_it_is_read_is_not_mixed(fake_gcs: FakeGcs) -> None:
    storage = prepare(fake_gcs)
    fake_gcs.store.put(BUCKET, "run/large", bytes(5 * 4 * 2**20))
    chunks = storage.read_chunks("large")
    next(chunks)
    fake_gcs.store.put(BUCKET, "run/large", b"1" * (5 * 4 * 2**20))
    with pytest.raises(OSError):
        list(chunks)


def test_listings_ask_the_server_each_time(fake_gcs: FakeGcs) -> None:
    storage = prepare(fake_gcs)
    fake_gcs.store.put(BUCKET, "run/later", b"1")
    fake_gcs.plan.add(Fault("stale"))
    assert storage.list("") == ["big", "old"]
    assert storage.list("") == ["big", "later", "old"]
    fake_gcs.store.delete(BUCKET, "run/later")
    assert storage.list("") == ["big", "old"]
    assert fake_gcs.plan.count("GET .*prefix=run/") == 3


def test_many_objects_are_listed_in_pages(fake_gcs: FakeGcs) -> None:
    names = [f"d/{number:04d}" for number in range(2500)]
    storage = prepare(fake_gcs)
    for name in names:
        fake_gcs.store.put(BUCKET, f"run/{name}", b"")
    assert storage.list("d") == names
    assert fake_gcs.plan.count("pageToken") == 2


def test_waits_grow_are_bounded_and_drawn_at_random() -> None:
    waits: list[float] = []
    policy = RetryPolicy(
        num_attempts=6,
        first_wait_secs=1.0,
        max_wait_secs=5.0,
        sleep=waits.append,
        uniform=lambda low, high: (low + high) / 2,
    )

    def fail() -> None:
        raise ConnectionResetError("injected")

    with pytest.raises(ConnectionResetError):
        policy.run(fail, what="trying")
    assert waits == [0.5, 1.0, 2.0, 2.5, 2.5]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(fake_gcs: FakeGcs, tmp_path: Path) -> None:
    """192 MiB up and down; the process may use as much as a few chunks."""
    size = 192 * 2**20
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(size)
    tests = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "helpers.measure_transfer", RUN, str(path)],
        env={**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    transferred, grown = map(int, done.stdout.split())
    assert transferred == size
    assert grown < 96 * 2**20
