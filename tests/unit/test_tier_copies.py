"""Copies from the fast tier to the run directory: beside training, and never lost."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.small_state import advance, small_state
from helpers.two_tiers import Machine, save_on, train_on

from resumable_tf.checkpoint import Checkpointer, FastTier, SaveOptions
from resumable_tf.checkpoint.due import Due
from resumable_tf.checkpoint.integrity import verify_step
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.checkpoint.tiers import Tiers
from resumable_tf.errors import SaveError
from resumable_tf.storage import open_storage
from resumable_tf.training.last_save import save_last

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class Gate:
    """Holds up copies until it is opened; counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.event = threading.Event()
        self.begun: list[int] = []
        copy = Tier.copy

        def held(tier: Tier, source: Tier, step: int, **rest: Any) -> Any:
            self.begun.append(step)
            assert self.event.wait(60)
            return copy(tier, source, step, **rest)

        monkeypatch.setattr(Tier, "copy", held)


def test_a_slow_copy_holds_up_neither_training_nor_fast_saves(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    state = small_state()
    with here.checkpointer() as checkpointer:
        checkpointer.restore_or_initialize(state)
        train_on(state, checkpointer, 13)
        handle = checkpointer.maybe_save(state)
        assert handle is None
        checkpointer._saving.writer.wait()
        # What is being copied is not deleted; what is due meanwhile stays due.
        assert here.steps() == ([5, 11, 12, 13], [])
        assert gate.begun == [5]
        assert checkpointer.committed_step == 13
        gate.event.set()
        checkpointer.wait(for_due=False)
        train_on(state, checkpointer, 14)
    assert gate.begun == [5, 14]
    assert here.steps() == ([12, 13, 14], [5, 14])


def test_save_goes_to_both_tiers_and_close_waits_for_them(here: Machine) -> None:
    state = small_state()
    with here.checkpointer() as checkpointer:
        checkpointer.restore_or_initialize(state)
        for _ in range(3):
            advance(state)
            handle = checkpointer.save(state)
            assert handle.result().path.startswith(str(here.fast_dir))
    assert here.steps() == ([1, 2, 3], [2, 3])


def test_a_copy_that_fails_raises_at_the_next_call_and_can_be_made_up_for(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("injected")

    state = small_state()
    with here.checkpointer() as checkpointer:
        checkpointer.restore_or_initialize(state)
        with monkeypatch.context() as patch:
            patch.setattr(Tier, "copy", fail)
            train_on(state, checkpointer, 5)
            with pytest.raises(SaveError, match=r"step 5 .*injected"):
                checkpointer.wait()
        checkpointer.raise_failure()
        advance(state)
        checkpointer.save(state)
    assert here.steps() == ([4, 5, 6], [6])


def test_training_goes_on_over_failed_copies_but_the_last_must_succeed(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("injected")

    monkeypatch.setattr(Tier, "copy", fail)
    fast = FastTier(here.fast_dir, every_steps=1)
    options = SaveOptions(fast_tier=fast, on_storage_error="continue")
    state = small_state()
    checkpointer = Checkpointer(here.run_dir, every_steps=2, options=options)
    checkpointer.restore_or_initialize(state)
    save_on(state, checkpointer, *range(1, 6))
    assert checkpointer.failures.count == 2
    assert (checkpointer.committed_step, checkpointer.durable_step) == (5, 0)
    with pytest.raises(SaveError, match=r"step 4 .*injected"):
        checkpointer.close()


def test_a_save_after_a_rollback_makes_up_for_a_later_step_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("injected")

    state = small_state()
    options = SaveOptions(on_storage_error="continue")
    with Checkpointer(str(tmp_path), every_steps=2, options=options) as checkpointer:
        save_on(state, checkpointer, 2)
        with monkeypatch.context() as patch:
            patch.setattr(Tier, "write", fail)
            save_on(state, checkpointer, 8)
        assert checkpointer.failures.count == 3
        checkpointer.restore(state, 2)
        save_on(state, checkpointer, 4)
        assert checkpointer.failures.last is None


def test_a_durable_save_is_over_if_what_comes_after_its_writing_fails(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cost would be measured on and on."""
    ended: list[bool] = []
    monkeypatch.setattr(Due, "end_copy", lambda *_: ended.append(True))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("injected")

    state = small_state()
    with here.checkpointer() as checkpointer:
        checkpointer.restore_or_initialize(state)
        with monkeypatch.context() as patch:
            patch.setattr(Tiers, "tidy", fail)
            with pytest.raises(SaveError, match="injected"):
                checkpointer.save(state).result()
    assert ended == [True]


def test_a_copy_that_succeeds_does_not_hide_that_a_newer_save_has_failed(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    fast = FastTier(here.fast_dir, every_steps=1)
    options = SaveOptions(fast_tier=fast, on_storage_error="continue")
    state = small_state()
    checkpointer = Checkpointer(here.run_dir, every_steps=2, options=options)
    checkpointer.restore_or_initialize(state)
    train_on(state, checkpointer, 2)
    checkpointer._saving.writer.finish()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the RAM disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Tier, "write", fail)
        train_on(state, checkpointer, 3)
        checkpointer._saving.writer.finish()
        checkpointer.raise_failure()
    gate.event.set()
    checkpointer.wait(for_due=False)
    assert checkpointer.durable_step == 2
    assert checkpointer.failures.count == 1
    with pytest.raises(SaveError, match=r"step 3 .*the RAM disk is full"):
        checkpointer.close()


def test_a_durable_save_does_not_wait_for_a_copy_that_is_about_to_begin(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast save that will be copied is still being written."""
    gate, may_write = Gate(monkeypatch), threading.Event()
    write = Tier.write

    def held(tier: Tier, *arguments: Any) -> Any:
        assert may_write.wait(60)
        return write(tier, *arguments)

    fast = FastTier(here.fast_dir, every_steps=100)
    state = small_state()
    options = SaveOptions(fast_tier=fast)
    with Checkpointer(here.run_dir, every_steps=1, options=options) as checkpointer:
        checkpointer.restore_or_initialize(state)
        with monkeypatch.context() as patch:
            patch.setattr(Tier, "write", held)
            advance(state)
            assert checkpointer.maybe_save(state) is not None
            advance(state)
            assert checkpointer.maybe_save(state) is None
            may_write.set()
            checkpointer._saving.writer.finish()
        gate.event.set()
        checkpointer.wait(for_due=False)
        advance(state)
        assert checkpointer.maybe_save(state) is not None
    assert here.steps() == ([1, 3], [1, 3])


def test_a_save_to_be_skipped_does_not_wait_for_the_fast_one(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, write = threading.Event(), Tier.write

    def held(tier: Tier, *arguments: Any) -> Any:
        assert may_write.wait(60)
        return write(tier, *arguments)

    monkeypatch.setattr(Tier, "write", held)
    fast = FastTier(here.fast_dir, every_steps=1)
    options = SaveOptions(fast_tier=fast, when_busy="skip")
    state = small_state()
    with Checkpointer(here.run_dir, every_steps=2, options=options) as checkpointer:
        checkpointer.restore_or_initialize(state)
        for expected in (True, False):  # The second is due in both tiers.
            advance(state)
            assert (checkpointer.maybe_save(state) is not None) == expected
        may_write.set()
        checkpointer.wait(for_due=False)
        assert here.steps() == ([1], [])


def test_what_a_copy_costs_the_training_counts_as_a_save_s_cost(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An automatic interval follows from it."""
    gate, now = Gate(monkeypatch), [0.0]
    fast = FastTier(here.fast_dir, every_steps=100)
    options = SaveOptions(fast_tier=fast, elapsed=lambda: now[0])
    state = small_state()
    with Checkpointer(here.run_dir, every_steps=4, options=options) as checkpointer:
        checkpointer.restore_or_initialize(state)
        for step in range(1, 8):
            now[0] += 1.0 if step <= 4 else 3.0  # Slower while the copy is under way.
            train_on(state, checkpointer, step)
            checkpointer._saving.writer.finish()
        gate.event.set()
        checkpointer.wait(for_due=False)
        now[0] += 1.0
        advance(state)
        checkpointer.should_save(state.step)
        costs = checkpointer._due._durable._meter.costs
    assert costs.save_secs == pytest.approx(6.0)


def test_a_copy_that_was_cut_short_is_completed_by_the_next_start(
    here: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    create = type(open_storage(here.run_dir)).create

    def fail(storage: Any, name: str, data: bytes) -> None:
        if name.endswith("ckpt-5.manifest.json") and storage.root == here.run_dir:
            raise OSError("injected")
        create(storage, name, data)

    with monkeypatch.context() as patch:
        patch.setattr("resumable_tf.storage.LocalStorage.create", fail)
        with pytest.raises(SaveError, match="injected"):
            here.train(5)
    assert here.steps() == ([3, 4, 5], [])
    with here.checkpointer() as checkpointer:
        checkpointer.restore_or_initialize(small_state())
        checkpointer.wait()
    assert "completing the copy of step 5" in caplog.text
    assert here.steps() == ([3, 4, 5], [5])


def test_what_is_left_of_another_copy_is_not_taken_for_this_one(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step was saved again, with other bits, after its copy was cut short."""

    def die(*_: Any, **__: Any) -> None:
        raise OSError("injected")

    with monkeypatch.context() as patch:
        patch.setattr("resumable_tf.checkpoint.tier.upload_files", die)
        with pytest.raises(SaveError, match="step 5"):
            here.train(5)
    index = Path(here.run_dir, "checkpoints", "ckpt-5.index")
    index.write_bytes(b"of another save")
    assert here.train(5) == 5
    assert here.steps() == ([3, 4, 5], [5])
    assert verify_step(open_storage(here.run_dir), 5).is_good


def test_a_durable_save_that_is_missing_is_made_up_for(here: Machine) -> None:
    """Killed after step 5 came due, before its copy: due at the first chance."""
    here.train(6, every_steps=100)
    assert here.train(7) == 6
    assert here.steps() == ([5, 6, 7], [7])


@pytest.mark.parametrize("is_damaged", [False, True])
def test_the_last_state_is_left_in_the_run_directory(
    here: Machine, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    """Copied, if the fast tier has it; a second save would move it away first."""
    written, write = [], Tier.write

    def note(tier: Tier, snapshot: Any, draft: Any) -> Any:
        written.append(draft.step)
        return write(tier, snapshot, draft)

    monkeypatch.setattr(Tier, "write", note)
    state = small_state()
    with here.checkpointer() as checkpointer:
        checkpointer.restore_or_initialize(state)
        save_on(state, checkpointer, 7)
        assert (checkpointer.committed_step, checkpointer.durable_step) == (7, 5)
        if is_damaged:
            data = here.fast_dir / "checkpoints" / "ckpt-7.data-00000-of-00001"
            data.write_bytes(data.read_bytes()[:-1] + b"x")
        save_last(state, checkpointer)
        assert checkpointer.durable_step == 7
    assert here.steps() == ([5, 6, 7], [5, 7])
    assert written == [*range(1, 8), *([7] if is_damaged else [])]
    assert here.restored() == 7
