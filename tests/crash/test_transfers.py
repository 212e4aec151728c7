"""Files to and from an object store: in parts, side by side, picked up after a kill.

Guards against an upload that begins anew after every kill, that sends or reads what it
need not, that leaves its parts behind or shows them, and against one that is slow.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import pytest
from helpers.fake_gcs import BUCKET, FakeGcs
from helpers.fake_gcs_faults import Fault

from resumable_tf.storage import ObjectStorage, gcs_parts, object_store
from resumable_tf.storage.retry import RetryPolicy
from resumable_tf.storage.transfer import Upload, in_parallel, upload_files

RUN = "gs://bucket/run"
PART = 256 * 1024
PUT = r"POST /upload.*uploadType=media.*parts"
TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs_parts, "_PART_BYTES", PART)
    monkeypatch.setattr(gcs_parts, "MIN_BYTES", 2 * PART)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(6 * PART + 17))
    return path


def crc32c(path: Path) -> str:
    return f"{google_crc32c.value(path.read_bytes()):08x}"


def names(server: FakeGcs) -> list[str]:
    return sorted(server.store.objects(BUCKET))


def test_a_large_file_goes_in_parts_side_by_side(
    fake_gcs: FakeGcs, source: Path
) -> None:
    fake_gcs.plan.add(Fault("slow", match=PUT, secs=0.2, times=10))
    ObjectStorage(RUN).upload("d/a", str(source))
    assert fake_gcs.plan.count(PUT) == 7
    assert fake_gcs.max_active == gcs_parts.NUM_PARALLEL_PARTS
    assert fake_gcs.store.get(BUCKET, "run/d/a").data == source.read_bytes()
    assert names(fake_gcs) == ["run/d/a"]


def test_more_parts_than_the_server_joins_at_once(
    fake_gcs: FakeGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs_parts, "_PART_BYTES", 1000)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2 * PART))
    assert 2 * PART / 1000 > 32 * 16
    ObjectStorage(RUN).upload("a", str(source), checksum=crc32c(source))
    assert fake_gcs.store.get(BUCKET, "run/a").data == source.read_bytes()
    assert names(fake_gcs) == ["run/a"]


def test_what_is_known_is_neither_read_again_nor_sent_again(
    fake_gcs: FakeGcs, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> str:
        raise AssertionError("the file is read to be hashed")

    monkeypatch.setattr(object_store, "crc32c_of", refuse)
    storage = ObjectStorage(RUN)
    for _ in range(2):
        storage.upload("a", str(source), checksum=crc32c(source))
    assert fake_gcs.plan.count(PUT) == 7


def test_a_file_that_is_not_what_it_should_be_is_noticed(
    fake_gcs: FakeGcs, source: Path
) -> None:
    """As by memory that has lost a bit since the file was written."""
    storage = ObjectStorage(RUN, retry=RetryPolicy(sleep=lambda secs: None))
    with pytest.raises(OSError, match="changed by its upload"):
        storage.upload("a", str(source), checksum="00000000")


UPLOAD = """
import sys
from resumable_tf.storage import ObjectStorage, gcs_parts
gcs_parts._PART_BYTES, gcs_parts.MIN_BYTES = int(sys.argv[3]), 2 * int(sys.argv[3])
ObjectStorage(sys.argv[1]).upload("a", sys.argv[2])
"""


def test_an_upload_that_was_killed_is_picked_up_by_another_process(
    fake_gcs: FakeGcs, source: Path
) -> None:
    fake_gcs.plan.add(Fault("slow", match=PUT, skip=4, secs=60.0, times=10))
    command = [sys.executable, "-c", UPLOAD, RUN, str(source), str(PART)]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}"}
    with subprocess.Popen(command, env=environment) as victim:
        wait_until(lambda: fake_gcs.plan.count(PUT + ".*slow") >= 1)
        wait_until(lambda: len(names(fake_gcs)) >= 4)
        victim.send_signal(signal.SIGKILL)
    storage = ObjectStorage(RUN)
    assert storage.list("") == []
    left = len(names(fake_gcs))
    assert 4 <= left < 7
    fake_gcs.plan.clear()
    storage.upload("a", str(source))
    assert fake_gcs.plan.count(PUT) == 7 - left
    assert fake_gcs.store.get(BUCKET, "run/a").data == source.read_bytes()
    assert names(fake_gcs) == ["run/a"]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_parts_of_another_file_are_not_used(fake_gcs: FakeGcs, source: Path) -> None:
    storage = ObjectStorage(RUN)
    fake_gcs.plan.add(Fault("status", match="compose", status=403))
    with pytest.raises(OSError):
        storage.upload("a", str(source))
    data = bytearray(source.read_bytes())
    data[3 * PART] ^= 1
    source.write_bytes(data)
    fake_gcs.plan.clear()
    storage.upload("a", str(source))
    assert fake_gcs.plan.count(PUT) == 1
    assert fake_gcs.store.get(BUCKET, "run/a").data == bytes(data)


def test_parts_that_nobody_needs_are_removed(fake_gcs: FakeGcs, source: Path) -> None:
    storage = ObjectStorage(RUN)
    fake_gcs.plan.add(Fault("status", match="compose", status=403))
    with pytest.raises(OSError):
        storage.upload("d/a", str(source))
    storage.write_bytes("d/b", b"1")
    assert storage.list("d") == ["d/b"]
    storage.remove_partial_writes("d")
    assert names(fake_gcs) == ["run/d/b"]


@pytest.mark.parametrize("size", [100, 6 * PART])
def test_an_object_that_comes_meanwhile_is_not_overwritten(
    fake_gcs: FakeGcs, source: Path, size: int
) -> None:
    source.write_bytes(source.read_bytes()[:size])
    storage = ObjectStorage(RUN)
    put = fake_gcs.store.put

    def overtaken(bucket: str, name: str, *rest: object) -> object:
        if name == "run/a" and name not in names(fake_gcs):
            put(bucket, name, b"another's")
        return put(bucket, name, *rest)

    fake_gcs.store.put = overtaken  # type: ignore[method-assign, assignment]
    with pytest.raises(FileExistsError, match=r"bucket/run/a .*another process"):
        storage.upload("a", str(source))
    assert fake_gcs.store.get(BUCKET, "run/a").data == b"another's"


@pytest.mark.parametrize("size", [100, 6 * PART])
def test_an_object_that_arrives_changed_is_sent_again(
    fake_gcs: FakeGcs, source: Path, size: int
) -> None:
    """It is this upload's own: known by its generation, it may be deleted."""
    source.write_bytes(source.read_bytes()[:size])
    storage = ObjectStorage(RUN, retry=RetryPolicy(sleep=lambda secs: None))
    put, seen = fake_gcs.store.put, []

    def changing(bucket: str, name: str, data: bytes, *rest: object) -> object:
        if name == "run/a":
            seen.append(name)
            data = data[:-1] + b"!" if len(seen) == 1 else data
        return put(bucket, name, data, *rest)

    fake_gcs.store.put = changing  # type: ignore[method-assign, assignment]
    storage.upload("a", str(source))
    assert fake_gcs.store.get(BUCKET, "run/a").data == source.read_bytes()
    assert len(seen) == 2


def test_several_files_go_side_by_side(fake_gcs: FakeGcs, tmp_path: Path) -> None:
    uploads = []
    for number in range(6):
        path = tmp_path / str(number)
        path.write_bytes(bytes([number]))
        uploads.append(Upload(f"d/{number}", str(path), crc32c(path)))
    fake_gcs.plan.add(Fault("slow", match="POST /upload", secs=0.2, times=10))
    storage = ObjectStorage(RUN)
    upload_files(storage, uploads)
    assert fake_gcs.max_active == 4
    assert [storage.read_bytes(f"d/{number}") for number in range(6)] == [
        bytes([number]) for number in range(6)
    ]


def test_the_first_failure_is_raised_and_what_has_not_begun_is_left() -> None:
    seen: list[int] = []

    def work(number: int) -> None:
        seen.append(number)
        if number == 0:
            raise OSError("injected")
        time.sleep(0.05)

    with pytest.raises(OSError, match="injected"):
        in_parallel(work, range(100))
    assert len(seen) < 20
