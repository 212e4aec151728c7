"""The lease, with time as a parameter: who may take it, and when."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from uuid import uuid4

import pytest

from resumable_tf.checkpoint.holder import Holder
from resumable_tf.checkpoint.layout import LEASE_FILE
from resumable_tf.checkpoint.lease import Lease, LeaseRecord
from resumable_tf.checkpoint.sealed_json import seal
from resumable_tf.errors import (
    CheckpointVersionError,
    FencedOffError,
    RunInUseError,
    SaveError,
)
from resumable_tf.storage import Storage, open_storage

ELSEWHERE = Holder("host-b", 4711, "another boot", "pid:[1]", "100", 1.7e9)
TTL_SECS = 60.0


class World:
    """A storage, and a time that passes only in `sleep`."""

    def __init__(self) -> None:
        self.storage: Storage = open_storage(f"memory://lease-{uuid4().hex}/run")
        self.now = 0.0
        self.slept = 0.0
        self.at_sleep: Callable[[], None] = lambda: None

    def sleep(self, secs: float) -> None:
        self.now += secs
        self.slept += secs
        self.at_sleep()

    def lease(self) -> Lease:
        return Lease(
            self.storage,
            ttl_secs=TTL_SECS,
            clock=lambda: 1.7e9 + self.now,
            elapsed=lambda: self.now,
            sleep=self.sleep,
        )

    def put(self, holder: Holder, *, age_secs: float = 0.0, renewals: int = 0) -> None:
        record = LeaseRecord(
            token="another",
            num_renewals=renewals,
            renewed=1.7e9 + self.now - age_secs,
            ttl_secs=TTL_SECS,
            holder=holder,
        )
        self.storage.write_bytes(LEASE_FILE, record.to_bytes())

    def record(self) -> LeaseRecord:
        return LeaseRecord.from_bytes(self.storage.read_bytes(LEASE_FILE))


@pytest.fixture
def world() -> World:
    return World()


def test_a_free_lease_is_taken_at_once_and_given_back(world: World) -> None:
    lease = world.lease()
    lease.take()
    lease.take()
    assert world.record().holder.pid == os.getpid()
    lease.verify()
    lease.release()
    lease.release()
    assert not world.storage.exists(LEASE_FILE)
    assert world.slept == 0


def test_a_silent_holder_is_waited_for_once_and_no_longer_than_its_lease(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.put(ELSEWHERE)
    with caplog.at_level(logging.WARNING):
        world.lease().take()
    assert TTL_SECS <= world.slept <= TTL_SECS * 1.1
    assert "held by pid 4711 on host-b" in caplog.text
    assert "at most 60 s" in caplog.text
    assert world.record().holder.pid == os.getpid()


def test_a_holder_that_renews_is_alive(world: World) -> None:
    world.put(ELSEWHERE)
    world.at_sleep = lambda: world.put(ELSEWHERE, renewals=int(world.now // 15))
    with pytest.raises(RunInUseError, match="kill 4711 on host-b") as error:
        world.lease().take()
    assert world.slept <= TTL_SECS / 2
    assert (error.value.host, error.value.pid) == ("host-b", 4711)
    assert error.value.since == ELSEWHERE.since


def test_clocks_that_differ_make_nobody_take_over_early(world: World) -> None:
    """The holder's clock is minutes behind, or jumped back: that proves nothing."""
    world.put(ELSEWHERE, age_secs=5 * TTL_SECS)
    world.at_sleep = lambda: world.put(ELSEWHERE, age_secs=5 * TTL_SECS, renewals=1)
    with pytest.raises(RunInUseError):
        world.lease().take()


def test_a_lease_of_long_ago_is_taken_without_waiting(world: World) -> None:
    world.put(ELSEWHERE, age_secs=11 * TTL_SECS)
    world.lease().take()
    assert world.slept == 0


def test_a_dead_process_of_this_host_is_replaced_without_waiting(world: World) -> None:
    me = Holder.this_process(now=1.7e9)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    world.put(dataclasses.replace(me, pid=process.pid, started="1"))
    world.lease().take()
    # The same number, but another process by now.
    world.put(dataclasses.replace(me, pid=os.getppid(), started="1"))
    world.lease().take()
    assert world.slept == 0


def test_a_process_of_another_container_is_never_taken_for_dead(world: World) -> None:
    """The same host and boot, but process numbers of its own."""
    me = Holder.this_process(now=1.7e9)
    other = dataclasses.replace(me, pid=2**22 + 1, pid_namespace="pid:[1]")
    assert not other.is_dead()
    world.put(other)
    world.at_sleep = lambda: world.put(other, renewals=1)
    with pytest.raises(RunInUseError):
        world.lease().take()


def test_who_was_replaced_can_not_verify_renew_or_delete(world: World) -> None:
    older = world.lease()
    older.take()
    world.put(ELSEWHERE)
    world.now += 95
    with pytest.raises(FencedOffError, match="after 95 s without a renewal") as error:
        older.verify()
    assert "pid 4711 on host-b" in str(error.value)
    with pytest.raises(FencedOffError):
        older.check()
    older.release()
    assert world.record().holder == ELSEWHERE


def test_a_deleted_lease_is_lost(world: World) -> None:
    lease = world.lease()
    lease.take()
    world.storage.delete(LEASE_FILE)
    with pytest.raises(FencedOffError, match="was deleted or damaged"):
        lease.verify()


def test_check_asks_the_storage_only_when_the_renewal_is_old(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = world.lease()
    lease.take()
    calls = []
    monkeypatch.setattr(lease, "verify", lambda: calls.append(world.now))
    lease.check()
    world.now += TTL_SECS / 2 - 1
    lease.check()
    assert calls == []
    world.now += 1
    lease.check()
    assert calls == [TTL_SECS / 2]


def test_a_renewal_whose_answer_was_lost_for_good_is_recognised(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = world.lease()
    lease.take()
    replace = world.storage.replace

    def lose(name: str, data: bytes, *, version: str) -> str:
        replace(name, data, version=version)
        raise ConnectionResetError("the answer is lost")

    with monkeypatch.context() as patch:
        patch.setattr(world.storage, "replace", lose)
        with pytest.raises(ConnectionResetError):
            lease.verify()
    lease.verify()
    with monkeypatch.context() as patch:
        patch.setattr(world.storage, "replace", lose)
        with pytest.raises(ConnectionResetError):
            lease.verify()
    lease.release()
    assert not world.storage.exists(LEASE_FILE)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": "x"}', b"\xff"])
def test_a_damaged_lease_is_replaced(world: World, content: bytes) -> None:
    world.storage.write_bytes(LEASE_FILE, content)
    world.lease().take()
    assert world.record().holder.pid == os.getpid()
    assert world.slept == 0


def test_a_lease_with_any_changed_byte_is_damaged_or_says_the_same() -> None:
    """A changed time would make others wait for hours, or wait for nobody."""
    record = LeaseRecord("token", 3, 1.7e9 + 0.125, TTL_SECS, ELSEWHERE)
    whole = record.to_bytes()
    num_noticed = 0
    for place in range(len(whole)):
        for new in {whole[place] ^ 1, whole[place] ^ 255, *b"e9"} - {whole[place]}:
            damaged = whole[:place] + bytes([new]) + whole[place + 1 :]
            try:
                assert LeaseRecord.from_bytes(damaged) == record
            except ValueError:
                num_noticed += 1
    assert num_noticed > len(whole)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttl_secs", 1e9),
        ("ttl_secs", -1),
        ("num_renewals", True),
        ("renewed", -1),
        ("holder", {}),
        ("pid", 2**31),
        ("pid", 0),
        ("since", 1e300),
        ("host", "x" * 300),
    ],
)
def test_a_lease_says_only_what_can_be(world: World, name: str, value: object) -> None:
    """No number in it makes another process wait for ever, or fail."""
    world.put(ELSEWHERE)
    fields = json.loads(world.storage.read_bytes(LEASE_FILE))
    del fields["crc32c"]
    (fields["holder"] if name in fields["holder"] else fields)[name] = value
    with pytest.raises(ValueError, match=name):
        LeaseRecord.from_bytes(json.dumps(seal(fields)).encode())
    with pytest.raises(ValueError, match="no checksum"):
        LeaseRecord.from_bytes(json.dumps(fields).encode())


def test_a_lease_of_a_newer_version_is_never_replaced(world: World) -> None:
    world.put(ELSEWHERE)
    fields = json.loads(world.storage.read_bytes(LEASE_FILE))
    del fields["crc32c"]
    data = json.dumps(seal({**fields, "format_version": 2})).encode()
    world.storage.write_bytes(LEASE_FILE, data)
    with pytest.raises(CheckpointVersionError, match="newer resumable-tf"):
        world.lease().take()
    assert world.storage.read_bytes(LEASE_FILE) == data


def test_of_two_that_take_at_the_same_moment_one_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = world.storage.create

    def be_late(name: str, data: bytes) -> None:
        world.put(ELSEWHERE)
        create(name, data)

    monkeypatch.setattr(world.storage, "create", be_late)
    world.at_sleep = lambda: world.put(ELSEWHERE, renewals=1)
    with pytest.raises(RunInUseError):
        world.lease().take()


def test_a_storage_that_fails_at_release_says_what_follows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = world.lease()
    lease.take()

    def fail(*_: object, **__: object) -> None:
        raise PermissionError("injected")

    monkeypatch.setattr(world.storage, "delete_version", fail)
    with pytest.raises(SaveError, match="runs out in 60 s"):
        lease.release()
