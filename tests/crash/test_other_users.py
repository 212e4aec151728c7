"""What another user of this machine can do to a training: nothing but be refused.

Guards against a directory that somebody else has prepared in a place where everybody
may write, and whose links let a training delete, move or write what is its user's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.small_state import advance, small_state

from resumable_tf.checkpoint import Checkpointer, FastTier, SaveOptions
from resumable_tf.checkpoint.holder import Holder
from resumable_tf.checkpoint.scratch import scratch_directory
from resumable_tf.errors import StorageError
from resumable_tf.storage.append import append_or_undo
from resumable_tf.storage.private_directory import (
    check_above,
    is_anybodys,
    make_private,
    why_not_private,
)
from resumable_tf.training.event_log import EventLog
from resumable_tf.training.metrics_log import MetricsLog

NOBODY = 65534
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can act as another user"
)


def as_nobody(work: Callable[[], None]) -> None:
    """Does it in a process of another user."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, "the other user could not do its part"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory like /dev/shm, which everybody can reach."""
    for above in [tmp_path, *tmp_path.parents][:4]:
        if above.stat().st_uid == os.geteuid() and above != Path("/tmp"):
            above.chmod(above.stat().st_mode | 0o011)
    made = tmp_path / "shm"
    made.mkdir()
    made.chmod(0o1777)
    return made


def train(run_dir: Path, fast_dir: Path, to_step: int) -> None:
    options = SaveOptions(fast_tier=FastTier(fast_dir, every_steps=1))
    state = small_state()
    made = Checkpointer(str(run_dir), every_steps=2, options=options)
    with made as checkpointer:
        checkpointer.restore_or_initialize(state)
        while state.step < to_step:
            advance(state)
            checkpointer.maybe_save(state)


@needs_root
@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_fast_tier_that_another_user_has_prepared_is_refused(
    shared: Path, tmp_path: Path, mode: int
) -> None:
    victim = tmp_path / "victim"
    (victim / "ckpt-1.1").mkdir(parents=True)
    (victim / "ckpt-1.1" / "thesis").write_text("all of it")
    fast = shared / "run"

    def prepare() -> None:
        os.mkdir(fast)
        os.chmod(fast, mode)
        os.mkdir(fast / "checkpoints")
        os.symlink(victim, fast / "checkpoints" / "superseded")

    as_nobody(prepare)
    with pytest.raises(StorageError, match=f"belongs to user {NOBODY}, and this"):
        train(tmp_path / "run", fast, 4)
    assert (victim / "ckpt-1.1" / "thesis").read_text() == "all of it"
    with pytest.raises(StorageError, match="What is there is not read"):
        options = SaveOptions(fast_tier=FastTier(fast, every_steps=1))
        made = Checkpointer(str(tmp_path / "run"), options=options)
        made.restore(small_state())


@needs_root
def test_another_user_gets_into_no_fast_tier_of_ours(
    shared: Path, tmp_path: Path
) -> None:
    train(tmp_path / "run", shared / "fast", 2)

    def look() -> None:
        for try_it in (
            lambda: os.listdir(shared / "fast"),
            lambda: os.mkdir(shared / "fast" / "x"),
            lambda: os.rename(shared / "fast", shared / "other"),
        ):
            with pytest.raises(PermissionError):
                try_it()

    as_nobody(look)


@needs_root
def test_no_name_in_the_temporary_directory_keeps_a_save_from_being_made(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    me = Holder.this_process(now=time.time())
    namespace = me.pid_namespace.removeprefix("pid:[").removesuffix("]")
    numbers = ["2147483648", "9" * 150, "0", "٣", "-1", "4294967297", "1" * 19]

    def prepare() -> None:
        for number in numbers:
            name = f"resumable-tf.{me.boot_id}.{namespace}.{number}.1.x"
            os.mkdir(shared / name)
        os.symlink("/", shared / f"resumable-tf.{me.boot_id}.{namespace}.999999.1.y")

    as_nobody(prepare)
    with scratch_directory() as directory:
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert len(os.listdir(shared)) == len(numbers) + 1


@pytest.mark.parametrize("pid", [2**31, 2**32 + 1, 2**63, 10**150])
def test_a_number_that_no_process_can_have_is_of_a_dead_one(pid: int) -> None:
    me = Holder.this_process(now=0.0)
    assert dataclasses.replace(me, pid=pid).is_dead()


@pytest.mark.parametrize(
    ("owner", "mode", "reason"),
    [
        (7, 0o700, None),
        (7, 0o755, None),
        (8, 0o700, "belongs to user 8"),
        (0, 0o700, "belongs to user 0"),
        (7, 0o770, "can be written to by others (mode 0770)"),
        (7, 0o707, "can be written to by others"),
        (7, 0o1777, "can be written to by others"),
    ],
)
def test_a_private_directory_is_its_users_alone(
    owner: int, mode: int, reason: str | None
) -> None:
    found = why_not_private(owner, mode, user=7)
    assert (found or "").startswith(reason or "") and (found is None) == (not reason)


def test_others_can_replace_what_is_where_everybody_may_rename() -> None:
    assert is_anybodys(0o777) and is_anybodys(0o702)
    assert not is_anybodys(0o1777) and not is_anybodys(0o775)


def test_a_directory_is_made_private_and_one_open_to_others_is_refused(
    tmp_path: Path,
) -> None:
    make_private(str(tmp_path / "a" / "b"))
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "c").mkdir(mode=0o755)
    make_private(str(tmp_path / "c"))
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o770)
    with pytest.raises(StorageError, match=r"written to by others.*mkdir -m 700"):
        make_private(str(tmp_path / "d"))
    (tmp_path / "e").mkdir()
    (tmp_path / "e").chmod(0o777)
    with pytest.raises(StorageError, match=r"everybody may rename.*chmod \+t"):
        make_private(str(tmp_path / "e" / "f"))
    with pytest.raises(StorageError, match=r"everybody may rename"):
        check_above(str(tmp_path / "e" / "f"))


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo"])
@pytest.mark.timeout(20)
def test_metrics_are_written_through_nothing_that_was_put_there(
    tmp_path: Path, kind: str
) -> None:
    """A link or a pipe under any name that is written to."""
    victim, metrics = tmp_path / "victim", tmp_path / "run" / "metrics"
    victim.write_bytes(b"mine")
    metrics.mkdir(parents=True)

    def put(name: str) -> None:
        path = metrics / name
        if kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(victim if kind == "link" else tmp_path / "nowhere")

    for name in ("train.jsonl.tmp", "train.jsonl.damaged-5"):
        put(name)
    events = EventLog(str(metrics / "train"))
    log = MetricsLog(str(metrics / "train.jsonl"), events=events)
    log.open(step=5, written=[3, 17])
    log.append({"step": 6, "loss": 1.0})
    log.flush()
    assert (metrics / "train.jsonl").read_text() == '{"step": 6, "loss": 1.0}\n'
    os.unlink(metrics / "train.jsonl")
    put("train.jsonl")
    # A pipe that nobody reads is told by the system.
    with pytest.raises(OSError, match=str(metrics / "train.jsonl")):
        append_or_undo(str(metrics / "train.jsonl"), b"x")
    assert victim.read_bytes() == b"mine" and not (tmp_path / "nowhere").exists()


def test_a_metrics_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "run").mkdir()
    metrics = tmp_path / "run" / "metrics"
    metrics.symlink_to(tmp_path / "outside")
    for log in (MetricsLog(str(metrics / "train.jsonl")), EventLog(str(metrics))):
        with pytest.raises(StorageError, match="metrics is a link to"):
            log.open(step=0)
    assert os.listdir(tmp_path / "outside") == []
