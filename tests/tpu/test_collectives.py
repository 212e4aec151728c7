"""Collectives read from optimized HLO: kinds, tuples, layouts, asynchronous pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.tpu.check_report import Figures, lower_bounds
from resumable_tf.tpu.chips import CHIPS
from resumable_tf.tpu.collectives import KINDS, Collective, parse_collectives

NO_FIGURES = {
    "compile_secs": 0.0,
    "argument_bytes": 0,
    "output_bytes": 0,
    "alias_bytes": 0,
    "temporary_bytes": 0,
    "code_bytes": 0,
    "flops": 0.0,
}


def test_a_tuple_counts_with_all_its_arrays_and_their_layouts_do_not_matter() -> None:
    hlo = """
  %all-reduce.65 = (f32[40,3]{0,1:T(8,128)S(1)}, bf16[7]{0:T(256)}, /*index=2*/s32[]) \
all-reduce(%a, %b, %c), replica_groups={{0,1}}, to_apply=%add
  %get-tuple-element.5 = f32[40,3]{0,1} get-tuple-element(%all-reduce.65), index=0
"""
    size = 40 * 3 * 4 + 7 * 2 + 4
    assert parse_collectives(hlo) == {"all-reduce": Collective(1, size)}


def test_an_asynchronous_operation_counts_once_and_without_its_operands() -> None:
    hlo = """
  %ag = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), dimensions={0}
  %agd = f32[8]{0} all-gather-done(%ag)
  %ar = f32[16]{0} all-reduce-start(%y), to_apply=%add
  %ard = f32[16]{0} all-reduce-done(%ar)
  %cp = (u8[3]{0}, u8[3]{0}, u32[], u32[]) collective-permute-start(%z)
"""
    found = parse_collectives(hlo)
    assert found["all-gather"] == Collective(1, 32)
    assert found["all-reduce"] == Collective(1, 64)
    assert found["collective-permute"].num_operations == 1


def test_a_program_of_one_replica_has_none() -> None:
    assert parse_collectives("  ROOT %add = f32[4]{0} add(%all-reduce, %b)") == {}


@given(
    kind=st.sampled_from(KINDS),
    shapes=st.lists(st.lists(st.integers(1, 50), max_size=3), min_size=1, max_size=5),
)
def test_bytes_are_those_of_all_results(kind: str, shapes: list[list[int]]) -> None:
    arrays = ", ".join(f"f32[{','.join(map(str, shape))}]" for shape in shapes)
    line = f"%c.1 = ({arrays}) {kind}(%x), replica_groups={{}}"
    expected = sum(4 * int(np.prod(shape, dtype=int)) for shape in shapes)
    assert parse_collectives(line)[kind].size_bytes == expected


def test_memory_counts_an_output_that_takes_an_argument_s_place_once() -> None:
    values = {**NO_FIGURES, "argument_bytes": 100, "output_bytes": 90}
    figures = Figures(
        **{**values, "alias_bytes": 80, "temporary_bytes": 5, "code_bytes": 2}
    )
    assert figures.hbm_bytes == 100 + (90 - 80) + 5 + 2


@pytest.mark.parametrize("replicas", [2, 8, 256])
def test_the_lower_bound_is_the_largest_of_the_peaks_times(replicas: int) -> None:
    chip = CHIPS["v5e"]
    reduced = {"all-reduce": Collective(3, 10**9)}
    values = {**NO_FIGURES, "flops": chip.peak_flops}
    bounds = lower_bounds(Figures(**values, collectives=reduced), chip, replicas)
    assert bounds.compute_secs == 1.0 and bounds.step_secs == 1.0
    # A ring all-reduce sends and receives each 2 (n - 1) / n of its bytes.
    expected = 4 * (replicas - 1) / replicas * 10**9 / chip.link_bytes_per_sec
    assert bounds.link_secs == pytest.approx(expected)


def test_no_time_between_chips_is_invented_where_no_figure_is_public() -> None:
    bounds = lower_bounds(Figures(**NO_FIGURES), CHIPS["v4"], 8)
    assert bounds.link_secs is None
