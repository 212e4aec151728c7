"""Pipelines of many operations continue exactly from every position, or are refused."""

from __future__ import annotations

import contextlib

import pytest
from helpers.pipelines import STEPS, composed, drawn, wrong_positions

import resumable_tf as rtf

NUM_QUICK, NUM_LONG = 12, 600


@pytest.mark.parametrize("name", STEPS)
def test_each_operation_before_a_shuffle(name: str) -> None:
    assert wrong_positions(lambda: composed((name, "shuffle"))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STEPS.keys() - {"cache"}))
def test_each_operation_alone_and_behind_a_shuffle(name: str) -> None:
    assert wrong_positions(lambda: composed((name,))) == []
    assert wrong_positions(lambda: composed(("shuffle", name, "prefetch all"))) == []


@pytest.mark.parametrize(
    ("seed", "count"),
    [(1, NUM_QUICK), pytest.param(2, NUM_LONG, marks=pytest.mark.proof)],
)
def test_compositions_of_operations(seed: int, count: int) -> None:
    wrong, num_refused = {}, 0
    for names in drawn(seed, count):
        with contextlib.suppress(rtf.ResumableError):
            found = wrong_positions(lambda names=names: composed(names))
            if found:
                wrong[names] = found
            continue
        num_refused += 1
    assert not wrong
    assert num_refused < count / 4
