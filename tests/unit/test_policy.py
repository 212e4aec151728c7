"""When to save and what to keep; pure functions, so tested as laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.checkpoint.policy import (
    AnyOf,
    EverySecs,
    EverySteps,
    LastSave,
    Moment,
)
from resumable_tf.checkpoint.retention import Candidate, KeepAny, KeepNewest

STEPS = st.integers(min_value=0, max_value=10_000)
PERIODS = st.integers(min_value=1, max_value=500)


@given(every=PERIODS, steps=st.integers(min_value=1, max_value=2000))
def test_every_steps_saves_at_each_multiple_and_nowhere_else(
    every: int, steps: int
) -> None:
    policy, last, saved = EverySteps(every), LastSave(0, 0.0), []
    for step in range(1, steps + 1):
        if policy.should_save(Moment(step=step, secs=0.0), last=last):
            saved.append(step)
            last = LastSave(step, 0.0)
    assert saved == list(range(every, steps + 1, every))


@given(every=PERIODS, start=STEPS, calls=st.lists(st.integers(1, 50), max_size=50))
def test_every_steps_is_never_late_by_more_than_one_call(
    every: int, start: int, calls: list[int]
) -> None:
    policy, last, step = EverySteps(every), LastSave(start, 0.0), start
    for jump in calls:
        multiple_passed = (step + jump) // every > step // every
        step += jump
        saves = policy.should_save(Moment(step=step, secs=0.0), last=last)
        assert saves == multiple_passed
        last = LastSave(step, 0.0) if saves else last


@given(every=PERIODS, step=STEPS)
def test_next_save_step_is_the_first_later_step_that_is_due(
    every: int, step: int
) -> None:
    policy, last = EverySteps(every), LastSave(step, 0.0)
    due = policy.next_save_step(Moment(step=step))
    assert due is not None
    assert policy.should_save(Moment(step=due, secs=0.0), last=last)
    assert not any(
        policy.should_save(Moment(step=between, secs=0.0), last=last)
        for between in range(step, due)
    )


@given(step=STEPS, every=PERIODS)
def test_nothing_is_saved_twice_at_one_step(step: int, every: int) -> None:
    last = LastSave(step, 0.0)
    for policy in (EverySteps(every), EverySecs(1.0)):
        assert not policy.should_save(Moment(step=step, secs=1e9), last=last)


def test_every_secs_waits_for_the_period_and_for_a_step() -> None:
    policy, last = EverySecs(60.0), LastSave(10, 1000.0)
    assert not policy.should_save(Moment(step=11, secs=1059.0), last=last)
    assert policy.should_save(Moment(step=11, secs=1060.0), last=last)
    assert not policy.should_save(Moment(step=10, secs=2000.0), last=last)
    assert policy.next_save_step(Moment(step=10)) is None


def test_any_of_saves_when_one_does_and_never_without_policies() -> None:
    policy = AnyOf(EverySteps(100), EverySecs(60.0))
    last = LastSave(50, 0.0)
    assert policy.should_save(Moment(step=100, secs=1.0), last=last)
    assert policy.should_save(Moment(step=51, secs=60.0), last=last)
    assert not policy.should_save(Moment(step=51, secs=1.0), last=last)
    assert policy.next_save_step(Moment(step=50)) == 100
    assert not AnyOf().should_save(Moment(step=10**9, secs=1e9), last=last)
    assert AnyOf().next_save_step(Moment(step=3)) is None


@given(steps=st.lists(STEPS, max_size=30), keep=st.integers(min_value=1, max_value=10))
def test_to_delete_leaves_the_newest_and_never_nothing(
    steps: list[int], keep: int
) -> None:
    doomed = KeepAny(KeepNewest(keep)).to_delete([Candidate(step) for step in steps])
    kept = set(steps) - set(doomed)
    assert doomed == sorted(doomed)
    assert len(kept) == min(keep, len(set(steps)))
    assert all(old < new for old in doomed for new in kept)


def test_keeping_without_a_policy_keeps_all() -> None:
    assert KeepAny().to_delete([Candidate(step) for step in (1, 2, 3)]) == []


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: EverySteps(0), "every_steps must be 1 or more, not 0"),
        (lambda: EverySecs(0.0), "every_secs must be positive, not 0.0"),
        (lambda: EverySecs(float("nan")), "every_secs must be positive"),
        (
            lambda: Checkpointer("run", keep_last=0),
            "keep_last must be 1 or more, not 0",
        ),
    ],
)
def test_impossible_settings_are_refused(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
