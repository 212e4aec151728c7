"""What holds for every policy and every sequence of checkpoints (hypothesis)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.checkpoint.interval import AutoInterval
from resumable_tf.checkpoint.policy import AtSteps, LastSave, Moment
from resumable_tf.checkpoint.retention import (
    Candidate,
    KeepAny,
    KeepBest,
    KeepMultiples,
    KeepNewest,
    KeepOnePer,
    KeepPinned,
    KeepPolicy,
)

counts = st.integers(1, 5)
policies: st.SearchStrategy[KeepPolicy] = st.one_of(
    st.builds(KeepNewest, counts),
    st.builds(KeepMultiples, st.integers(1, 50)),
    st.builds(KeepPinned, st.sets(st.integers(0, 200))),
    st.builds(KeepOnePer, st.floats(1.0, 1e4)),
    st.builds(KeepBest, counts, st.just("bleu"), st.booleans()),
)
metrics = st.dictionaries(st.just("bleu"), st.floats(0, 100))
candidates = st.lists(
    st.builds(Candidate, st.integers(0, 200), st.floats(0, 1e6), metrics),
    unique_by=lambda candidate: candidate.step,
)


@given(st.lists(policies), candidates)
def test_the_newest_is_never_deleted(kept: list, found: list[Candidate]) -> None:
    deleted = KeepAny(*kept).to_delete(found)
    steps = {candidate.step for candidate in found}
    assert set(deleted) <= steps
    assert deleted == sorted(deleted)
    if steps:
        assert max(steps) not in deleted


@given(st.lists(policies, min_size=1), candidates)
def test_deleting_once_is_enough(kept: list, found: list[Candidate]) -> None:
    """What survives is kept the next time too, if nothing new was saved."""
    policy = KeepAny(*kept)
    deleted = policy.to_delete(found)
    left = [candidate for candidate in found if candidate.step not in deleted]
    assert policy.to_delete(left) == []


@given(st.lists(policies, min_size=1), policies, candidates)
def test_another_policy_only_keeps_more(
    kept: list, more: KeepPolicy, found: list[Candidate]
) -> None:
    few, many = KeepAny(*kept), KeepAny(*kept, more)
    assert few.to_keep(found) <= many.to_keep(found)
    assert more.to_keep(found) <= many.to_keep(found)


@given(counts, st.booleans(), candidates)
def test_no_deleted_checkpoint_is_better_than_a_kept_one(
    count: int, is_higher_better: bool, found: list[Candidate]
) -> None:
    kept = KeepBest(count, "bleu", is_higher_better).to_keep(found)
    rated = {c.step: c.metrics["bleu"] for c in found if "bleu" in c.metrics}
    assert kept <= set(rated)
    assert len(kept) == min(count, len(rated))
    for step in set(rated) - kept:
        for other in kept:
            worse, better = sorted((step, other), key=lambda s: rated[s])
            if not is_higher_better:
                worse, better = better, worse
            assert rated[step] == rated[other] or better == other


@given(st.sets(st.integers(1, 100), min_size=1), st.integers(1, 9))
def test_at_steps_saves_once_for_each_step_it_reaches(
    steps: set[int], steps_per_call: int
) -> None:
    policy, last, saved = AtSteps(steps), LastSave(0, 0.0), []
    for step in range(0, 120, steps_per_call):
        if policy.should_save(Moment(step=step), last=last):
            saved.append(step)
            last = LastSave(step, 0.0)
    reached = {-(-due // steps_per_call) * steps_per_call for due in steps}
    assert saved == sorted(reached)
    assert policy.next_save_step(Moment(step=0)) == min(steps)
    assert policy.next_save_step(Moment(step=max(steps))) is None


@given(st.floats(1e-3, 1e3), st.floats(1.0, 1e7), st.floats(0.001, 0.5))
def test_the_automatic_interval_keeps_overhead_under_its_share(
    save_secs: float, failure_secs: float, share: float
) -> None:
    policy = AutoInterval(failure_secs, max_overhead=share)
    interval = policy.interval_secs(save_secs)
    # 1e-9: the division rounds.
    assert save_secs / (interval + save_secs) <= share * (1 + 1e-9)
    assert policy.interval_secs(save_secs * 2) >= policy.interval_secs(save_secs)


def lost_share(interval: float, save_secs: float, failure_secs: float) -> float:
    """Returns the share of time lost to saves and to work done twice."""
    return save_secs / interval + (interval + save_secs) / (2 * failure_secs)


@given(st.floats(0.01, 10.0), st.floats(1e4, 1e7))
def test_the_automatic_interval_is_near_the_optimum(
    save_secs: float, failure_secs: float
) -> None:
    """Within 2% of the best of many: the model behind it is an approximation too."""
    chosen = AutoInterval(failure_secs, max_overhead=0.999).interval_secs(save_secs)
    best = min(
        lost_share(chosen * 1.1**power, save_secs, failure_secs)
        for power in range(-30, 31)
    )
    assert lost_share(chosen, save_secs, failure_secs) <= best * 1.02


@pytest.mark.parametrize(
    "make",
    [
        lambda: KeepNewest(0),
        lambda: KeepMultiples(0),
        lambda: KeepOnePer(0.0),
        lambda: KeepBest(0, "bleu"),
        lambda: AtSteps([]),
        lambda: AtSteps([0]),
        lambda: AutoInterval(0.0),
        lambda: AutoInterval(1.0, max_overhead=1.0),
        lambda: AutoInterval(1.0).interval_secs(0.0),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()
