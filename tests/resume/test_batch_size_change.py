"""Another batch size: refused, unless asked for; then recorded, and exact again.

Guards against rows that are read twice or never, since a position counted in steps
means another row when a step has another size.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.records import write_records
from helpers.runs import (
    assert_same_run,
    metric_lines,
    run_training,
    train_args,
    write_corpus,
)

import resumable_tf as rtf

NUM_ROWS = 21
ADVICE = "--allow-batch-size-change"


def run(
    directory: Path, sizes: Sequence[tuple[int, int]], *, die_every: int | None = None
) -> tuple[list[int], tf.Variable]:
    """Trains to each (stop step, batch size) in turn; saves at each third step.

    Args:
        directory: Run directory, with the records beside it.
        sizes: Where each part of the run ends, and rows of its steps.
        die_every: Steps that a start lives, and whose last ones it loses.

    Returns:
        The rows of the last life of every step, and a variable that saw them all.
    """
    rows: dict[int, list[int]] = {}
    for stop_step, size in sizes:
        is_done = False
        while not is_done:
            dataset, weight, state = start(directory, size)
            with rtf.Checkpointer(str(directory), every_steps=3) as checkpointer:
                checkpointer.restore_or_initialize(state, allow_batch_size_change=True)
                lives = die_every or stop_step
                for batch in dataset.from_step(state.step).take(lives):
                    if state.step == stop_step:
                        break
                    ids = batch["source"][:, 0]
                    rows[state.step] = ids.numpy().tolist()
                    total = tf.reduce_sum(tf.cast(ids, tf.float32))
                    weight.assign(weight * 0.5 + total)
                    state.step += 1
                    checkpointer.maybe_save(state)
                is_done = state.step == stop_step
                if is_done:
                    checkpointer.save(state)
    return list(chain.from_iterable(rows[step] for step in sorted(rows))), weight


def start(directory: Path, size: int) -> tuple[rtf.RecordDataset, Any, Any]:
    records = str(directory.parent / "records")
    dataset = rtf.RecordDataset.open(records, global_batch_size=size, seed=1)
    weight = tf.Variable(0.0)
    return dataset, weight, rtf.TrainState(weight=weight, data=dataset)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    write_records(tmp_path / "records", (7, 1, 4, 9))
    return tmp_path


def lineage(directory: Path) -> Any:
    return json.loads((directory / "run.json").read_text())["lineage"]


def test_rows_are_neither_lost_nor_repeated_over_many_changes(records: Path) -> None:
    sizes = [(4, 4), (7, 5), (9, 1), (30, 3)]
    rows, weight = run(records / "run", sizes)
    assert len(rows) == 4 * 4 + 3 * 5 + 2 * 1 + 21 * 3
    dataset, _, _ = start(records / "run", 1)
    stream = [int(b["source"][0, 0]) for b in dataset.from_step(0).take(len(rows))]
    assert rows == stream
    killed, again = run(records / "killed", sizes, die_every=4)
    assert killed == rows
    np.testing.assert_array_equal(again.numpy(), weight.numpy())


def test_a_change_is_recorded_once_and_later_starts_need_no_flag(records: Path) -> None:
    directory = records / "run"
    run(directory, [(4, 4)])
    options = rtf.SaveOptions(clock=lambda: 1000.0)
    for allow in (True, True, False):  # The first one dies before it saves.
        dataset, _, state = start(directory, 6)
        checkpointer = rtf.Checkpointer(str(directory), options=options)
        checkpointer.restore_or_initialize(state, allow_batch_size_change=allow)
        assert (state.step, dataset.row(4), dataset.row(6)) == (4, 16, 28)
    assert lineage(directory) == {
        "changes": [
            {
                "parent_step": 4,
                "time": 1000.0,
                "changed": {"batch_size": {"from": 4, "to": 6}},
            }
        ]
    }
    state.step = 5
    checkpointer.save(state).result()
    manifest = checkpointer.latest().manifest
    assert manifest.data["origin"] == {"step": 4, "row": 16}
    assert (manifest.epoch, manifest.batch) == (1, 0)  # 22 rows of 21 a epoch


def test_settings_and_data_change_together(records: Path) -> None:
    directory = records / "run"
    for size, allow in ((4, False), (6, True), (6, False)):
        _, _, state = start(directory, size)
        config = {"batch_size": size, "seed": 1}
        with rtf.Checkpointer(str(directory), config=config) as checkpointer:
            checkpointer.restore_or_initialize(state, allow_batch_size_change=allow)
            state.step += 1
            checkpointer.save(state)
    assert [change["parent_step"] for change in lineage(directory)["changes"]] == [1]
    run_file = json.loads((directory / "run.json").read_text())
    assert run_file["config"] == {"batch_size": 6, "seed": 1}
    checkpointer = rtf.Checkpointer(str(directory), config={"batch_size": 5, "seed": 2})
    with pytest.raises(rtf.ConfigMismatchError, match=r"seed: run.json 1, now 2"):
        checkpointer.restore_or_initialize(state, allow_batch_size_change=True)


def test_without_being_asked_for_it_is_refused_and_nothing_changes(
    records: Path,
) -> None:
    directory = records / "run"
    run(directory, [(4, 4)])
    for config in (None, {"batch_size": 4}):
        _, _, state = start(directory, 4)
        with rtf.Checkpointer(str(directory), config=config) as checkpointer:
            checkpointer.restore_or_initialize(state)
        before = sorted((p, p.stat().st_mtime_ns) for p in directory.rglob("*"))
        dataset, weight, state = start(directory, 6)
        now = config and {"batch_size": 6}
        checkpointer = rtf.Checkpointer(str(directory), config=now)
        with pytest.raises(rtf.ResumableError) as caught:
            checkpointer.restore_or_initialize(state)
        for part in ("4", "6", "--batch-size 4", ADVICE):
            assert part in str(caught.value)
        assert (state.step, float(weight), dataset.row(1)) == (0, 0.0, 6)
        after = sorted((p, p.stat().st_mtime_ns) for p in directory.rglob("*"))
        assert before == after


def test_data_that_cannot_count_rows_is_refused_with_the_flag_too(
    tmp_path: Path,
) -> None:
    def state(size: int) -> rtf.TrainState:
        data = tf.data.Dataset.range(20).batch(size)
        return rtf.TrainState(weight=tf.Variable(0.0), data=rtf.ResumableIterator(data))

    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.save(state(4))
    with pytest.raises(rtf.DataMismatchError, match="_batch_size"):
        rtf.Checkpointer(str(tmp_path)).restore_or_initialize(
            state(5), allow_batch_size_change=True
        )


def test_steps_before_the_change_are_no_steps_of_this_size(records: Path) -> None:
    dataset, _, _ = start(records / "run", 5)
    dataset.continue_from({"global_batch_size": 4}, 3)
    assert dataset.row(4) == 17
    with pytest.raises(ValueError, match="from 3"):
        dataset.from_step(2)


@pytest.mark.proof
@pytest.mark.crash
def test_a_kill_after_the_change_is_exact(tmp_path: Path) -> None:
    """Real processes of the translation script, killed before and after a save."""
    corpus = write_corpus(tmp_path / "corpus.tsv")
    runs = {"whole": [], "killed": [13, 18]}
    for name, kills in runs.items():
        first = train_args(tmp_path / name, corpus, stop_step=12)
        assert run_training(first).returncode == 0
        args = train_args(tmp_path / name, corpus, batch_size=4)
        refused = run_training(args)
        assert refused.returncode == 2
        for part in ("run.json 8, now 4", "--batch-size 8", ADVICE):
            assert part in refused.stderr
        for kill in kills:
            killed = run_training([*args, ADVICE], kill_after_step=kill)
            assert killed.returncode == -signal.SIGKILL, killed.stderr
        flags = [] if kills else [ADVICE]  # It is on record by then.
        done = run_training([*args, *flags])
        assert done.returncode == 0, done.stderr
        (change,) = lineage(tmp_path / name)["changes"]
        assert change["parent_step"] == 12
        assert change["changed"] == {"batch_size": {"from": 8, "to": 4}}
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    tokens = [line["num_tokens"] for line in metric_lines(tmp_path / "whole", "train")]
    assert tokens[0] > 1.5 * tokens[-1]
