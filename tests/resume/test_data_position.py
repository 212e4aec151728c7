"""A dataset started at any step gives what the uninterrupted stream would give.

Guards the defect of every epoch-based reader: a skipped or repeated row near an
epoch's or shard's end, seen only when a run stops exactly there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.records import Rows, reference_stream, write_records

from resumable_tf.data.dataset import RecordDataset, evaluation_batches
from resumable_tf.data.packing import FIELDS
from resumable_tf.errors import DataFormatError, UsageError

EQUAL_BUT_THE_LAST = (5, 5, 5, 5, 3)
UNEVEN = (7, 1, 4, 9)
NUM_EPOCHS = 3


def make(
    directory: Path, sizes: Sequence[int], batch_size: int, *, seed: int = 1
) -> tuple[RecordDataset, list[Rows]]:
    _, shards = write_records(directory, sizes)
    dataset = RecordDataset.open(
        str(directory), global_batch_size=batch_size, seed=seed
    )
    return dataset, shards


def batches(dataset: RecordDataset, step: int, num_batches: int) -> list[Rows]:
    return list(dataset.from_step(step).take(num_batches).as_numpy_iterator())


def row_ids(some_batches: Sequence[Any]) -> list[int]:
    return list(chain.from_iterable(b["source"][:, 0].tolist() for b in some_batches))


def assert_equal_batches(actual: Sequence[Rows], expected: Sequence[Rows]) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        for name in FIELDS:
            assert one[name].dtype == np.int32
            np.testing.assert_array_equal(one[name], other[name])


EVERY_ROW = [((4, 1, 2), 1), ((4, 1, 2), 3), ((4, 1, 2), 9)]
"""Shard sizes and batch size: every row, across shards, across epochs."""
MORE = [(sizes, size) for sizes in (EQUAL_BUT_THE_LAST, UNEVEN) for size in range(1, 9)]
MORE += [((4, 1, 2), size) for size in (2, 4, 7, 14, 16)]
IN_CI = {(EQUAL_BUT_THE_LAST, 3), (UNEVEN, 2), (UNEVEN, 5), (UNEVEN, 8)}
IN_CI |= {((4, 1, 2), 4), ((4, 1, 2), 16)}


def marked(case: tuple[tuple[int, ...], int]) -> pytest.MarkDecorator:
    return pytest.mark.slow if case in IN_CI else pytest.mark.proof


@pytest.mark.parametrize(
    ("sizes", "batch_size"),
    EVERY_ROW + [pytest.param(*case, marks=marked(case)) for case in MORE],
    ids=str,
)
def test_start_at_every_step_of_three_epochs_equals_the_uninterrupted_stream(
    tmp_path: Path, sizes: tuple[int, ...], batch_size: int
) -> None:
    dataset, shards = make(tmp_path, sizes, batch_size)
    num_steps = -(-NUM_EPOCHS * dataset.num_rows // batch_size)
    expected = list(islice(reference_stream(dataset, shards), num_steps + 2))
    assert_equal_batches(batches(dataset, 0, num_steps), expected[:num_steps])
    for step in range(1, num_steps):
        assert_equal_batches(batches(dataset, step, 2), expected[step : step + 2])


@pytest.mark.parametrize(
    ("sizes", "batch_size"),
    [(EQUAL_BUT_THE_LAST, 4), (UNEVEN, 1), (UNEVEN, 23), ((6,), 4)],
    ids=str,
)
def test_each_epoch_visits_each_row_exactly_once_in_an_order_of_its_own(
    tmp_path: Path, sizes: tuple[int, ...], batch_size: int
) -> None:
    dataset, _ = make(tmp_path, sizes, batch_size)
    rows = dataset.num_rows
    num_steps = -(-4 * rows // batch_size)
    ids = row_ids(batches(dataset, 0, num_steps))
    epochs = [ids[first : first + rows] for first in range(0, 4 * rows, rows)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(rows))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_rows_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    ids = [
        row_ids(batches(make(tmp_path, UNEVEN, size)[0], 0, 60 // size))
        for size in (1, 4, 60)
    ]
    assert ids[0] == ids[1] == ids[2]


def test_other_seeds_give_other_orders_and_the_same_seed_the_same(
    tmp_path: Path,
) -> None:
    ids = [
        row_ids(batches(make(tmp_path, UNEVEN, 7, seed=seed)[0], 0, 3))
        for seed in (1, 2, 3, 1)
    ]
    assert len({tuple(order) for order in ids[:3]}) == 3
    assert ids[3] == ids[0]


@pytest.mark.parametrize("step", [1_000_000, 1_000_003, 2**33])
def test_first_batch_at_a_late_step_needs_only_the_shards_of_its_own_rows(
    tmp_path: Path, step: int
) -> None:
    """Time-independent: all files but those of the batch's rows are deleted."""
    dataset, shards = make(tmp_path, (40, 40, 40, 40, 7), 8)
    epoch, row = divmod(step * 8, dataset.num_rows)
    needed = set()
    for place, shard in enumerate(chain(*map(dataset.shard_order, (epoch, epoch + 1)))):
        size = len(shards[shard]["source"])
        if row < size and row + 8 > 0:
            needed.add(int(shard))
            visit = epoch * len(shards) + place
            order = dataset.row_order(visit)[max(row, 0) : row + 8]
            if row >= 0:
                first_rows = shards[shard]["source"][order]
        row -= size
    assert len(needed) <= 2
    for index, shard_info in enumerate(dataset.records.splits["train"].shards):
        if index not in needed:
            (tmp_path / shard_info.file).unlink()
    first = next(dataset.from_step(step).as_numpy_iterator())
    assert first["source"].shape == (8, 3)
    np.testing.assert_array_equal(first["source"][: len(first_rows)], first_rows)


def test_late_steps_continue_each_other(tmp_path: Path) -> None:
    dataset, _ = make(tmp_path, UNEVEN, 8)
    for step in (1_000_000, 2**33):
        two = batches(dataset, step, 2)
        assert_equal_batches(batches(dataset, step + 1, 1), two[1:])


def test_steps_per_epoch_is_the_exact_ratio(tmp_path: Path) -> None:
    assert make(tmp_path, UNEVEN, 4)[0].steps_per_epoch == 21 / 4
    assert make(tmp_path, UNEVEN, 50)[0].steps_per_epoch == 21 / 50


def test_describe_holds_what_decides_the_batches_as_json_values(tmp_path: Path) -> None:
    dataset, _ = make(tmp_path, UNEVEN, 4)
    described = dataset.describe()
    assert json.loads(json.dumps(described)) == described
    assert described == {
        "fingerprint": dataset.records.fingerprint,
        "global_batch_size": 4,
        "seed": 1,
    }


def test_batches_have_static_shapes(tmp_path: Path) -> None:
    """A TPU compiles for one shape: none of the dimensions may be unknown."""
    dataset, _ = make(tmp_path, UNEVEN, 4)
    spec = dataset.from_step(5).element_spec
    assert [spec[name].shape.as_list()[1] for name in FIELDS] == [3, 3, 3, 4, 4, 4]
    assert spec["source"].shape.as_list()[0] == 4


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_evaluation_gives_each_row_once_in_file_order_and_fills_the_last_batch(
    tmp_path: Path, batch_size: int
) -> None:
    records, _ = write_records(tmp_path, (3,), validation_sizes=(4, 4, 3))
    dataset = evaluation_batches(records, "validation", batch_size=batch_size)
    for _ in range(2):
        found = list(dataset.as_numpy_iterator())
        assert {batch["source"].shape for batch in found} == {(batch_size, 3)}
        assert len(found) == -(-11 // batch_size)
        ids = row_ids(found)
        assert ids[:11] == list(range(11))
        rest = {name: np.concatenate([b[name] for b in found])[11:] for name in FIELDS}
        assert not any(array.any() for array in rest.values())


def test_batch_size_and_step_are_checked(tmp_path: Path) -> None:
    for batch_size in (0, -1):
        with pytest.raises(UsageError, match=f"--batch-size {batch_size}"):
            make(tmp_path, UNEVEN, batch_size)
    with pytest.raises(ValueError, match="step is -1"):
        make(tmp_path, UNEVEN, 4)[0].from_step(-1)
    with pytest.raises(DataFormatError, match="no prepared record set"):
        RecordDataset.open(str(tmp_path / "none"), global_batch_size=1, seed=0)


def test_rows_of_all_splits_are_kept_apart(tmp_path: Path) -> None:
    dataset, shards = make(tmp_path, UNEVEN, 21)
    values = Counter(map(bytes, chain.from_iterable(s["target"] for s in shards)))
    first = batches(dataset, 0, 1)[0]["target"].astype(np.uint16)
    assert Counter(map(bytes, first)) == values
