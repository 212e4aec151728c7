"""The search for the largest batch: exact, and sparing with compilations."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from resumable_tf.tpu.batch_search import Attempt, find_largest
from resumable_tf.tpu.check import find_batch
from resumable_tf.tpu.check_report import CheckReport, Figures
from resumable_tf.tpu.chips import GIB
from resumable_tf.tpu.topology import parse_topology


def search(need: Callable[[int], float], limit: float, start: int, most: int) -> tuple:
    tried: list[int] = []

    def attempt(size: int) -> Attempt:
        assert size not in tried
        tried.append(size)
        needed = need(size)
        return Attempt(needed <= limit, needed if needed <= limit else None)

    return find_largest(attempt, start=start, most=most, limit=limit), tried


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    base=st.floats(0, 50),
    limit=st.floats(1, 1000),
    start=st.integers(0, 300),
)
def test_the_result_fits_and_the_next_size_does_not(
    seed: int, base: float, limit: float, start: int
) -> None:
    random = Random(seed)
    weights = [random.uniform(0.01, 10) for _ in range(200)]

    def need(size: int) -> float:
        return base + sum(weights[:size])

    largest, tried = search(need, limit, start, most=200)
    assert largest in tried
    if need(1) > limit:
        assert largest == 1
    else:
        assert need(largest) <= limit
        assert largest == 200 or need(largest + 1) > limit
        assert largest == 200 or largest + 1 in tried


@given(slope=st.floats(0.01, 5), base=st.floats(0, 900), start=st.integers(1, 64))
def test_a_need_on_a_line_is_found_in_a_few_attempts(
    slope: float, base: float, start: int
) -> None:
    _, tried = search(lambda size: base + slope * size, 1000, start, most=1 << 16)
    assert len(tried) <= 14


def test_nothing_more_is_tried_when_size_is_not_the_reason() -> None:
    tried: list[int] = []

    def attempt(size: int) -> Attempt:
        tried.append(size)
        return Attempt(fits=False, needed=None, is_final=True)

    assert find_largest(attempt, start=8, most=100, limit=1) == 8
    assert tried == [8]


def test_a_need_that_does_not_grow_ends_at_the_most() -> None:
    largest, tried = search(lambda size: 5.0, 10.0, start=4, most=1000)
    assert largest == 1000 and len(tried) < 12


def test_find_batch_tries_multiples_of_the_replicas_and_reports_the_largest() -> None:
    topology = parse_topology("v5e:2x4")
    limit = topology.chip.usable_hbm_bytes
    tried: list[int] = []

    def check(batch_size: int) -> CheckReport:
        tried.append(batch_size)
        needed = 2 * GIB + batch_size * (GIB // 64)
        if needed > limit:
            error = "RESOURCE_EXHAUSTED: Ran out of memory on HBM"
            return CheckReport(topology, batch_size, (), error, None)
        figures = Figures(0.0, needed, 0, 0, 0, 0, 0.0)
        return CheckReport(topology, batch_size, (), None, figures)

    report = find_batch(check, topology, start=64)
    assert all(batch_size % 8 == 0 for batch_size in tried)
    assert report.compiles and report.batch_size == 880
    assert 2 * GIB + (880 + 8) * (GIB // 64) > limit


def test_find_batch_stops_at_an_error_that_memory_is_not_the_reason_of() -> None:
    topology = parse_topology("v5e:2x4")

    def check(batch_size: int) -> CheckReport:
        return CheckReport(topology, batch_size, (), "INTERNAL: no", None)

    report = find_batch(check, topology, start=64)
    assert (report.batch_size, report.error) == (64, "INTERNAL: no")
