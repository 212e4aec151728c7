"""Disk full, read-only, no permission, quota, bucket gone: training goes on or stops.

Guards against a training that dies of a full disk although it was told to go on, one
that goes on although another process writes, a failure that nobody hears of, and a last
good checkpoint that pays for a bad one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from helpers.fake_gcs import FakeGcs
from helpers.fake_gcs_faults import Fault
from helpers.faulty_storage import FaultyStorage
from helpers.saved_runs import steps_in
from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer, SaveOptions, bundle
from resumable_tf.checkpoint.failures import is_of_storage
from resumable_tf.checkpoint.tensorflow_errors import as_os_errors
from resumable_tf.errors import (
    CheckpointCorruptError,
    FencedOffError,
    RunInUseError,
    SaveError,
    StateError,
)
from resumable_tf.state import TrainState
from resumable_tf.storage import LocalStorage, ObjectStorage, Storage
from resumable_tf.storage.retry import RetryPolicy
from resumable_tf.training.progress import describe_saves

TESTS = Path(__file__).parent.parent
NUMBERS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT)
CONTINUE = SaveOptions(asynchronous=False, on_storage_error="continue")
NO_WAIT = RetryPolicy(sleep=lambda secs: None)


def prepare(storage: Storage | str) -> None:
    """Saves step 1."""
    state = small_state()
    with Checkpointer(storage, options=CONTINUE) as checkpointer:
        checkpointer.restore_or_initialize(state)
        advance(state)
        checkpointer.save(state)


def assert_restorable(storage: Storage | str, *steps: int) -> None:
    state = small_state()
    Checkpointer(storage).restore(state)
    assert state.step in steps
    assert_at_step(state, state.step)


def train_over(
    storage: Storage,
    fault: Callable[[], None],
    repair: Callable[[], None],
    *,
    options: SaveOptions = CONTINUE,
) -> tuple[int, str | None]:
    """Goes on from step 1: a save with a fault, and one without.

    Returns:
        Failures counted after the first, and the last one in words.
    """
    state = small_state()
    with Checkpointer(
        storage, every_steps=1, keep_last=1, options=options
    ) as checkpointer:
        checkpointer.restore_or_initialize(state)
        fault()
        advance(state)
        checkpointer.maybe_save(state)
        if options.asynchronous:
            checkpointer.wait()
        found = checkpointer.failures.count, checkpointer.failures.status
        repair()
        assert_restorable(storage, 1, 2)
        advance(state)
        checkpointer.maybe_save(state)
        checkpointer.wait()
        assert checkpointer.failures.count == 0
    assert_restorable(storage, 3)
    return found


@pytest.mark.parametrize("num_faults", [1, pytest.param(10**9, id="lasting")])
def test_training_goes_on_over_an_error_of_any_operation(
    tmp_path: Path, num_faults: int
) -> None:
    seen, fail_at, is_over = set(), 0, False
    stride = 1 if num_faults == 1 else 4
    while not is_over:
        run_dir = tmp_path / str(fail_at)
        prepare(str(run_dir))
        number = NUMBERS[fail_at // stride % len(NUMBERS)]
        faulty = FaultyStorage(LocalStorage(str(run_dir)), fail_at=10**9, number=number)

        def fault(faulty: FaultyStorage = faulty, fail_at: int = fail_at) -> None:
            faulty._fail_at, faulty._num_faults = len(faulty.log) + fail_at, num_faults

        count, status = train_over(faulty, fault, faulty.repair)
        is_over = count == 0
        if not is_over:
            assert (count, status) == (1, os.strerror(number))
            seen.add(number)
        names = os.listdir(run_dir / "checkpoints")
        assert sorted(names) == [
            "checkpoint",
            "ckpt-3.data-00000-of-00001",
            "ckpt-3.index",
            "ckpt-3.manifest.json",
        ]
        shutil.rmtree(run_dir)
        fail_at += stride
    assert seen == set(NUMBERS)


def test_told_to_stop_it_stops_at_the_next_call(tmp_path: Path) -> None:
    prepare(str(tmp_path))
    storage = FaultyStorage(
        LocalStorage(str(tmp_path)),
        fail_at=20,
        num_faults=10**9,
        number=errno.ENOSPC,
    )
    state = small_state()
    checkpointer = Checkpointer(storage, every_steps=1)
    checkpointer.restore_or_initialize(state)
    advance(state)
    with pytest.raises(OSError, match="No space left on device"):
        for _ in range(9):
            advance(state)
            checkpointer.maybe_save(state)
            checkpointer._saving.writer.finish()
    storage.repair()
    checkpointer.close()
    assert_restorable(str(tmp_path), 1)


@contextlib.contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    """Lets the kernel refuse what this process writes beyond a file's size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("is_tensorflows", [True, False])
def test_a_file_that_the_kernel_does_not_let_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_tensorflows: bool
) -> None:
    """The writing itself fails; whatever it has written is gone at once."""
    state = small_state(size=400_000)
    if is_tensorflows:
        monkeypatch.setattr(bundle, "can_write", lambda _: False)
    with Checkpointer(str(tmp_path), every_steps=1, options=CONTINUE) as checkpointer:
        advance(state)
        checkpointer.maybe_save(state)
        before = sorted(os.listdir(tmp_path / "checkpoints"))
        with files_no_larger_than(2**20):
            for count in (1, 2):
                advance(state)
                checkpointer.maybe_save(state)
                assert checkpointer.failures.count == count
                assert checkpointer.failures.status == "File too large"
                assert sorted(os.listdir(tmp_path / "checkpoints")) == before
        assert "ckpt-3" in str(checkpointer.failures.last)
        advance(state)
        checkpointer.maybe_save(state)
        assert checkpointer.failures.last is None
    again = small_state(size=400_000)
    Checkpointer(str(tmp_path)).restore(again)
    assert_at_step(again, 4)


def test_a_run_directory_that_is_gone_for_a_while(tmp_path: Path) -> None:
    """A mount that was lost: a file is where the directory was. Root can't write it."""
    run_dir, away = tmp_path / "run", tmp_path / "away"
    prepare(str(run_dir))

    def fault() -> None:
        run_dir.rename(away)
        run_dir.touch()

    def repair() -> None:
        run_dir.unlink()
        away.rename(run_dir)

    found = train_over(LocalStorage(str(run_dir)), fault, repair)
    assert found == (1, "Not a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_the_right_to_write(tmp_path: Path) -> None:
    prepare(str(tmp_path))
    folder = tmp_path / "checkpoints"
    found = train_over(
        LocalStorage(str(tmp_path)),
        lambda: folder.chmod(0o500),
        lambda: folder.chmod(0o700),
    )
    assert found == (1, "Permission denied")


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of 4 MB, in a mount namespace of the child's own."""
    enter = "unshare --user --map-root-user --mount sh -c".split()
    mount = f"mount -t tmpfs -o size=4m none {shlex.quote(str(tmp_path))}"
    try:
        probe = subprocess.run([*enter, mount], capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if probe.returncode:
        pytest.skip(f"no file system can be mounted here: {probe.stderr!r}")
    child = f"{shlex.quote(sys.executable)} -m helpers.full_disk"
    done = subprocess.run(
        [*enter, f"{mount} && {child} {shlex.quote(str(tmp_path))}"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen.pop("lost_bytes") <= 4096  # The lease may have a page of its own.
    assert seen == {
        "count": 3,
        "status": "No space left on device",
        "count_in_the_end": 0,
    }


@pytest.mark.parametrize(
    ("status", "match", "said"),
    [
        (403, "^(POST|PUT)", "[Ff]orbidden|403"),
        (404, "", "^FileNotFoundError: b/bucket"),
        (429, "^(POST|PUT)", "429"),
    ],
    ids=["permission denied", "bucket missing", "quota"],
)
def test_google_cloud_storage_that_refuses_for_a_while(
    fake_gcs: FakeGcs,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    match: str,
    said: str,
) -> None:
    async def sleep(_: float) -> None:
        return

    monkeypatch.setattr("gcsfs.retry.asyncio", types.SimpleNamespace(sleep=sleep))
    storage = ObjectStorage("gs://bucket/run", retry=NO_WAIT)
    prepare(storage)
    fault = Fault("status", match=match, status=status, times=10**6)
    count, text = train_over(
        storage, lambda: fake_gcs.plan.add(fault), fake_gcs.plan.clear
    )
    assert count == 1
    assert re.search(said, text or "")


def test_the_last_save_must_succeed_whatever_was_said(tmp_path: Path) -> None:
    for is_explicit in (True, False):
        run_dir = str(tmp_path / str(is_explicit))
        prepare(run_dir)
        storage = FaultyStorage(
            LocalStorage(run_dir), fail_at=10**9, num_faults=10**9, number=errno.ENOSPC
        )
        state = small_state()
        options = SaveOptions(on_storage_error="continue")
        checkpointer = Checkpointer(storage, every_steps=1, options=options)
        checkpointer.restore_or_initialize(state)
        advance(state)
        storage._fail_at = len(storage.log)
        handle = checkpointer.maybe_save(state)
        checkpointer.wait()
        assert checkpointer.failures.count == 1
        if is_explicit:
            assert handle is not None
            with pytest.raises(SaveError, match="step 2 was not saved"):
                checkpointer.save(state).result()
        storage.repair()
        with pytest.raises(SaveError, match=r"step 2 was not saved.*No space left"):
            checkpointer.close()
        assert_restorable(run_dir, 1)


def failing_with(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        FencedOffError("another writer"),
        RunInUseError("in use", host="a", pid=1, since=0.0),
        SaveError("the bundle does not hold what was captured"),
        FileExistsError(errno.EEXIST, "someone else's"),
        StateError("can't be saved"),
        KeyError("a bug"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_the_storages_fault_stops_the_training_in_any_case(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = small_state()
    options = SaveOptions(on_storage_error="continue")
    checkpointer = Checkpointer(str(tmp_path), every_steps=1, options=options)
    monkeypatch.setattr(checkpointer._tiers, "write", failing_with(error))
    advance(state)
    assert checkpointer.maybe_save(state) is not None
    checkpointer._saving.writer.finish()
    with pytest.raises(SaveError) as caught:
        checkpointer.maybe_save(state)
    assert caught.value.__cause__ is error
    checkpointer.close()
    assert not is_of_storage(error)


def test_a_state_that_can_not_be_captured_stops_the_training(tmp_path: Path) -> None:
    state = small_state()
    options = SaveOptions(on_storage_error="continue")
    checkpointer = Checkpointer(str(tmp_path), every_steps=1, options=options)
    advance(state)
    state.extra = {"not": object()}
    with pytest.raises(TypeError, match="must be JSON values"):
        checkpointer.maybe_save(state)
    checkpointer.close()
    assert steps_in(tmp_path) == []
    assert is_of_storage(CheckpointCorruptError("cut off"))
    assert isinstance(state, TrainState)


def test_the_progress_line_says_what_failed_and_what_is_good(tmp_path: Path) -> None:
    prepare(str(tmp_path))
    storage = FaultyStorage(
        LocalStorage(str(tmp_path)), fail_at=10**9, number=errno.ENOSPC
    )
    state = small_state()
    with Checkpointer(storage, every_steps=1, options=CONTINUE) as checkpointer:
        checkpointer.restore_or_initialize(state)
        storage._fail_at, storage._num_faults = len(storage.log), 10**9

        def line() -> str:
            return describe_saves(checkpointer.committed_step, checkpointer.failures)

        assert line() == "last checkpoint 1"
        for _ in range(2):
            advance(state)
            checkpointer.maybe_save(state)
        assert line() == "save failed 2x: No space left on device (last good: step 1)"
        storage.repair()
        advance(state)
        checkpointer.maybe_save(state)
        assert line() == "last checkpoint 4"
    assert describe_saves(None, None) == "last checkpoint none yet"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_tensorflows_errors_about_files_get_their_number_back(number: int) -> None:
    message = f"{{{{function_node x}}}} /run/part-0.tmp; {os.strerror(number)} [Op:S]"
    with pytest.raises(OSError) as caught, as_os_errors():
        raise tf.errors.UnknownError(None, None, message)
    assert (caught.value.errno, caught.value.filename) == (number, "/run/part-0.tmp")
    with pytest.raises(tf.errors.ResourceExhaustedError), as_os_errors():
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
