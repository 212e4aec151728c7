"""The best checkpoint reaches the run directory, however slow that is.

Guards against a best value that counts as saved although only the fast tier, which
forgets it soon, had it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.small_state import advance, assert_at_step, small_state
from helpers.two_tiers import Machine

import resumable_tf as rtf
from resumable_tf.checkpoint import Checkpointer, FastTier, SaveOptions
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.state import TrainState
from resumable_tf.storage import open_storage
from resumable_tf.training.last_save import save_in_time


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class SlowStore:
    """Lets each copy wait until it is told to go on, or to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[int] = []
        self._fails: set[int] = set()
        self._may_end = threading.Semaphore(0)
        copy = Tier.copy

        def held(tier: Tier, source: Tier, step: int, **rest: Any) -> Any:
            self.begun.append(step)
            assert self._may_end.acquire(timeout=60)
            if step in self._fails:
                raise OSError("injected")
            return copy(tier, source, step, **rest)

        monkeypatch.setattr(Tier, "copy", held)

    def end_copies(self, number: int = 1) -> None:
        self._may_end.release(number)

    def fail(self, step: int) -> None:
        self._fails.add(step)
        self._may_end.release()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> SlowStore:
    return SlowStore(monkeypatch)


def saver(here: Machine, *, fast_every: int = 1, **arguments: Any) -> Checkpointer:
    options = SaveOptions(
        save_when=[rtf.OnImprovement("bleu")],
        keep=[rtf.KeepBest(1, "bleu")],
        fast_tier=FastTier(here.fast_dir, every_steps=fast_every, keep_last=1),
        on_storage_error="continue",
    )
    return Checkpointer(here.run_dir, keep_last=1, options=options, **arguments)


@contextlib.contextmanager
def training(here: Machine, **arguments: Any) -> Iterator[tuple[TrainState, Any]]:
    """A start of a run, and its end."""
    state = small_state()
    with saver(here, **arguments) as checkpointer:
        checkpointer.restore_or_initialize(state)
        yield state, checkpointer


def step_on(
    state: TrainState, checkpointer: Checkpointer, bleu: float | None = None
) -> None:
    """Trains a step and lets the fast tier's save of it end."""
    advance(state)
    checkpointer.maybe_save(state, metrics=None if bleu is None else {"bleu": bleu})
    checkpointer._saving.writer.finish()


@pytest.mark.parametrize("fast_every", [1, 100])
def test_the_best_reaches_the_run_directory_after_the_copy_under_way(
    here: Machine, store: SlowStore, fast_every: int
) -> None:
    """Whether or not the fast tier is saved to at that very step."""
    with training(here, fast_every=fast_every) as (state, checkpointer):
        step_on(state, checkpointer, 25.0)
        step_on(state, checkpointer, 30.0)
        for bleu in (None, 28.0, None):
            step_on(state, checkpointer, bleu)
        # It is still there, and training has waited for nothing.
        assert (store.begun, here.steps()[1]) == ([1], [])
        assert 2 in here.steps()[0]
        store.end_copies()
        checkpointer.wait(for_due=False)
        step_on(state, checkpointer, 28.0)
        store.end_copies()
        checkpointer.wait(for_due=False)
        assert store.begun == [1, 2]
        step_on(state, checkpointer, 29.0)
    assert store.begun == [1, 2]
    assert here.steps()[1] == [2]
    found = small_state()
    here.checkpointer().restore(found, 2)
    assert_at_step(found, 2)


def test_of_several_improvements_the_best_is_copied(
    here: Machine, store: SlowStore
) -> None:
    with training(here) as (state, checkpointer):
        for bleu in (25.0, 30.0, 29.0, 31.0, 30.5):
            step_on(state, checkpointer, bleu)
        # The RAM disk holds what is copied, what will be, and the newest.
        assert here.steps()[0] == [1, 4, 5]
        store.end_copies()
        checkpointer.wait(for_due=False)
        step_on(state, checkpointer)
        store.end_copies()
    assert store.begun == [1, 4]
    assert here.steps()[1] == [4]


def test_an_improvement_whose_copy_fails_does_not_count(
    here: Machine, store: SlowStore
) -> None:
    with training(here) as (state, checkpointer):
        step_on(state, checkpointer, 30.0)
        store.fail(1)
        checkpointer.wait(for_due=False)
        assert checkpointer.failures.count == 1
        step_on(state, checkpointer, 20.0)
        store.end_copies()
        checkpointer.wait(for_due=False)
        assert checkpointer.failures.last is None
    assert here.steps()[1] == [2]


def test_one_whose_copy_was_put_off_and_fails_does_not_count(
    here: Machine, store: SlowStore
) -> None:
    with training(here) as (state, checkpointer):
        step_on(state, checkpointer, 20.0)
        step_on(state, checkpointer, 30.0)
        store.end_copies()
        checkpointer.wait(for_due=False)
        step_on(state, checkpointer)
        store.fail(2)
        checkpointer.wait(for_due=False)
        step_on(state, checkpointer, 25.0)
        store.end_copies()
    assert store.begun == [1, 2, 4]
    assert here.steps()[1] == [4]


def test_the_last_checkpoint_goes_before_the_best_when_time_is_short(
    here: Machine, store: SlowStore
) -> None:
    """Where the newer one is there already, it stays."""
    with training(here) as (state, checkpointer):
        step_on(state, checkpointer, 25.0)
        step_on(state, checkpointer, 30.0)
        step_on(state, checkpointer)
        store.end_copies(3)
        save_in_time(state, checkpointer, lambda: 25.0)
        assert store.begun == [1, 3]
        assert checkpointer.durable_step == 3
    assert store.begun == [1, 3, 2]
    assert here.steps()[1] == [2, 3]
    assert not list(Path(here.run_dir).glob("checkpoints/superseded/*"))
    assert here.restored() == 3


def test_what_is_due_anyway_waits_for_its_chance_without_a_save(
    here: Machine, store: SlowStore
) -> None:
    """A save by steps that comes due during a copy is of a later step, as ever."""
    with training(here, fast_every=100, every_steps=2) as (state, checkpointer):
        step_on(state, checkpointer)
        step_on(state, checkpointer, 25.0)
        for _ in range(3):
            step_on(state, checkpointer)
        assert here.steps()[0] == [2]
        store.end_copies()
        checkpointer.wait(for_due=False)
        step_on(state, checkpointer)
        store.end_copies()
    assert store.begun == [2, 6]


def test_an_improvement_counts_also_where_a_save_by_steps_is_due(
    here: Machine, store: SlowStore
) -> None:
    with training(here, every_steps=2) as (state, checkpointer):
        step_on(state, checkpointer, 25.0)
        step_on(state, checkpointer, 30.0)
        step_on(state, checkpointer, 20.0)
        store.end_copies()
        checkpointer.wait(for_due=False)
        step_on(state, checkpointer, 20.0)
        store.end_copies()
        checkpointer.wait(for_due=False)
        step_on(state, checkpointer, 20.0)
        store.end_copies()
    assert store.begun == [1, 2, 5]
    assert here.steps()[1] == [2, 5]


def test_after_a_restart_the_run_directory_is_what_improvements_are_of(
    here: Machine, store: SlowStore
) -> None:
    state = small_state()
    store.end_copies(10)
    with saver(here) as checkpointer:
        checkpointer.restore_or_initialize(state)
        step_on(state, checkpointer, 25.0)
        checkpointer.wait(for_due=False)
        checkpointer.save(state, metrics={"bleu": 40.0}, in_durable=False).result()
    with training(here) as (state, checkpointer):
        step_on(state, checkpointer, 30.0)
    assert here.steps()[1] == [2]


def test_a_save_that_fails_in_the_fast_tier_is_shown_until_a_copy_is_made(
    here: Machine, store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("injected")

    state = small_state()
    checkpointer = saver(here)
    checkpointer.restore_or_initialize(state)
    step_on(state, checkpointer, 25.0)
    with monkeypatch.context() as patch:
        patch.setattr(Tier, "write", fail)
        step_on(state, checkpointer, 30.0)
    store.end_copies()
    checkpointer._saving.finish()
    step_on(state, checkpointer)
    assert checkpointer.failures.count == 1
    step_on(state, checkpointer, 28.0)
    store.end_copies()
    checkpointer.wait(for_due=False)
    assert checkpointer.failures.last is None
    checkpointer.close()
    assert open_storage(here.run_dir).exists("checkpoints/ckpt-4.manifest.json")


def test_a_restore_forgets_what_was_to_be_copied(
    here: Machine, store: SlowStore
) -> None:
    with training(here) as (state, checkpointer):
        step_on(state, checkpointer, 25.0)
        step_on(state, checkpointer, 30.0)
        store.end_copies(9)
        checkpointer.restore(state, 1)
        step_on(state, checkpointer, 27.0)
    assert store.begun == [1, 2]
    assert here.steps()[1] == [2]
