"""What fails once a checkpoint is committed: it is saved, and nothing else is hidden.

Guards against a save that is called lost although it counts, and against a copy to the
run directory that is left out because something else went wrong.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.saved_runs import steps_in
from helpers.small_state import advance, small_state
from helpers.two_tiers import Machine, save_on, train_on

from resumable_tf.checkpoint import Checkpointer, FastTier, SaveOptions
from resumable_tf.checkpoint.due import Due
from resumable_tf.checkpoint.fast_record import FastRecord
from resumable_tf.checkpoint.lease import Lease
from resumable_tf.checkpoint.ownership import Ownership
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.errors import FencedOffError, SaveError
from resumable_tf.storage import open_storage


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def two_tiers(here: Machine, **options: Any) -> Checkpointer:
    fast = FastTier(here.fast_dir, every_steps=1, keep_last=1)
    made = SaveOptions(fast_tier=fast, on_storage_error="continue", **options)
    return Checkpointer(here.run_dir, every_steps=4, options=made)


def fail_to_tidy(patch: pytest.MonkeyPatch, where: str, number: int) -> None:
    """Lets retention fail in one directory."""
    tidy = Tier.tidy

    def failing(tier: Tier, *arguments: Any, **rest: Any) -> None:
        if tier.storage.root == where:
            raise OSError(number, os.strerror(number), "ckpt-1.index")
        tidy(tier, *arguments, **rest)

    patch.setattr(Tier, "tidy", failing)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOSPC])
def test_a_save_whose_retention_fails_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    state = small_state()
    with Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.restore_or_initialize(state)
        with monkeypatch.context() as patch:
            fail_to_tidy(patch, str(tmp_path), number)
            advance(state)
            with pytest.raises(SaveError) as caught:
                checkpointer.save(state).result()
        assert "step 1 is saved, but deleting what is not kept failed" in str(
            caught.value
        )
        assert "not saved" not in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)
        assert checkpointer.committed_step == 1
        checkpointer.raise_failure()
    assert steps_in(tmp_path) == [1]


def test_training_goes_on_over_it_where_it_may_and_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = small_state()
    options = SaveOptions(on_storage_error="continue")
    with Checkpointer(str(tmp_path), every_steps=1, options=options) as checkpointer:
        checkpointer.restore_or_initialize(state)
        with monkeypatch.context() as patch:
            fail_to_tidy(patch, str(tmp_path), errno.EACCES)
            save_on(state, checkpointer, 1, 2)
        assert checkpointer.failures.count == 2
        assert checkpointer.failures.status == "Permission denied"
        assert checkpointer.committed_step == 2
        save_on(state, checkpointer, 3)
        assert checkpointer.failures.last is None


def test_the_copy_is_made_although_the_fast_tier_can_not_be_tidied(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = small_state()
    with two_tiers(here) as checkpointer:
        checkpointer.restore_or_initialize(state)
        save_on(state, checkpointer, 3)
        with monkeypatch.context() as patch:
            fail_to_tidy(patch, str(here.fast_dir), errno.ENOSPC)
            save_on(state, checkpointer, 4)
        assert checkpointer.durable_step == 4
        # What the copy has made up for is not what has failed.
        assert checkpointer.failures.count == 1
        save_on(state, checkpointer, 5)
        assert checkpointer.failures.last is None
    assert here.steps() == ([5], [4])


def test_the_copy_is_made_although_the_record_can_not_be_written(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a step back the fast tier's record is written right after the commit."""
    here.train(5)
    state, update, fails = small_state(), Ownership.update, [True]

    def failing_once(owned: Ownership, change: Any) -> None:
        if fails and change(FastRecord("", "")).superseded:
            fails.clear()
            raise OSError(errno.EIO, "injected")
        update(owned, change)

    monkeypatch.setattr(Ownership, "update", failing_once)
    checkpointer = here.checkpointer()
    checkpointer.restore(state, 4)
    state.step = 2
    advance(state)
    with pytest.raises(SaveError, match="step 3 is saved, but"):
        checkpointer.save(state).result()
    checkpointer.close()
    assert not fails
    assert here.steps()[1] == [3]


def test_a_copy_that_is_committed_is_not_called_lost(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = small_state()
    with here.checkpointer() as checkpointer:
        checkpointer.restore_or_initialize(state)
        with monkeypatch.context() as patch:
            fail_to_tidy(patch, here.run_dir, errno.EACCES)
            train_on(state, checkpointer, 5)
            with pytest.raises(SaveError, match="step 5 is saved, but deleting"):
                checkpointer.wait()
        assert checkpointer.durable_step == 5


def test_a_due_copy_that_could_not_be_begun_is_shown_until_one_is_made(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast saves in between do not make up for it."""
    ended: list[bool] = []
    end_copy = Due.end_copy

    def note(due: Due, *arguments: Any) -> None:
        ended.append(True)
        end_copy(due, *arguments)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Due, "end_copy", note)
    state = small_state()
    with two_tiers(here) as checkpointer:
        checkpointer.restore_or_initialize(state)
        save_on(state, checkpointer, 3)
        with monkeypatch.context() as patch:
            patch.setattr(Tier, "write", fail)
            save_on(state, checkpointer, 4)
        assert ended == [True]
        save_on(state, checkpointer, *range(5, 8))
        assert (checkpointer.committed_step, checkpointer.durable_step) == (7, 0)
        assert checkpointer.failures.status == "No space left on device"
        save_on(state, checkpointer, 8)
        assert checkpointer.durable_step == 8
        assert checkpointer.failures.last is None
    assert ended == [True, True]


@pytest.mark.parametrize("tiers", ["one", "two"])
def test_who_has_lost_the_lease_while_it_wrote_uploads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiers: str
) -> None:
    """Nor copies: the rightful one may not be so far, and would find files there."""
    fast = FastTier(tmp_path, every_steps=1) if tiers == "two" else None
    storage, verify = open_storage(f"memory://{tmp_path.name}/run"), Lease.verify

    def lost(lease: Lease) -> None:
        if lease._storage.root == storage.root:
            raise FencedOffError("another process writes to the run")
        verify(lease)

    state = small_state()
    checkpointer = Checkpointer(storage, options=SaveOptions(fast_tier=fast))
    checkpointer.restore_or_initialize(state)
    monkeypatch.setattr(Lease, "verify", lost)
    advance(state)
    with pytest.raises(SaveError, match="another process writes"):
        checkpointer.save(state)
        checkpointer.wait()
    checkpointer.close()
    assert [name for name in storage.list("checkpoints") if "ckpt-1." in name] == []


def test_who_is_fenced_off_after_the_commit_does_not_go_on(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise FencedOffError("another process writes to the run")

    state = small_state()
    checkpointer = two_tiers(here)
    checkpointer.restore_or_initialize(state)
    with monkeypatch.context() as patch:
        patch.setattr(Tier, "tidy", fail)
        train_on(state, checkpointer, 1)
        with pytest.raises(SaveError, match="another process writes") as caught:
            checkpointer.wait()
    assert isinstance(caught.value.__cause__, FencedOffError)
    checkpointer.close()
