"""The policies as options of a checkpointer: what is saved, kept and remembered."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.faulty_storage import FaultyStorage
from helpers.saved_runs import steps_in
from helpers.small_state import FixedData, advance, assert_at_step, small_state
from hypothesis import given
from hypothesis import strategies as st

import resumable_tf as rtf
from resumable_tf.checkpoint import Checkpointer, SaveOptions, bundle
from resumable_tf.checkpoint.policy import EpochEnds, LastSave, Moment, OnImprovement
from resumable_tf.checkpoint.retention import KeepPolicy
from resumable_tf.errors import UsageError
from resumable_tf.storage import LocalStorage

NEVER = 10**9


class Epochs(FixedData):
    """Data whose epochs are two and a half steps long."""

    steps_per_epoch = 2.5


def options(*save_when: Any, **changes: Any) -> SaveOptions:
    return SaveOptions(save_when=save_when, asynchronous=False, **changes)


def train(
    run_dir: Path | FaultyStorage,
    stop_step: int,
    made: SaveOptions,
    *,
    bleu: Sequence[float | None] = (),
    **arguments: Any,
) -> list[int]:
    """Trains a run further; `bleu[step]` is measured at a step. Returns the saves."""
    state = small_state(data=Epochs())
    where = run_dir if isinstance(run_dir, FaultyStorage) else str(run_dir)
    arguments = {"keep_last": None, **arguments}
    saved = []
    with Checkpointer(where, options=made, **arguments) as checkpointer:
        checkpointer.restore_or_initialize(state)
        while state.step < stop_step:
            advance(state)
            value = bleu[state.step] if state.step < len(bleu) else None
            metrics = None if value is None else {"bleu": value}
            if checkpointer.maybe_save(state, metrics=metrics) is not None:
                saved.append(state.step)
    return saved


def test_the_end_of_each_epoch_is_saved_also_after_a_resume(tmp_path: Path) -> None:
    made = options(EpochEnds())
    assert train(tmp_path, 6, made) == [3, 5]
    # Step 5 was saved; epoch 2 ends with 7.5 steps.
    assert train(tmp_path, 13, made) == [8, 10, 13]


def test_the_next_epochs_first_step_is_known_in_advance(tmp_path: Path) -> None:
    state = small_state(data=Epochs())
    checkpointer = Checkpointer(str(tmp_path), options=options(EpochEnds()))
    assert checkpointer.next_save_step(0) is None
    with checkpointer:
        checkpointer.restore_or_initialize(state)
        found = [checkpointer.next_save_step(step) for step in range(9)]
    assert found == [3, 3, 3, 5, 5, 8, 8, 8, 10]


def test_epochs_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    state = small_state()
    with (
        Checkpointer(str(tmp_path), options=options(EpochEnds())) as checkpointer,
        pytest.raises(UsageError, match="does not know the epoch of step 1; give"),
    ):
        advance(state)
        checkpointer.maybe_save(state)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 5))
def test_an_epoch_is_saved_once(before: int, epoch: int, step: int) -> None:
    moment = Moment(step=step + 1, epoch=epoch)
    due = EpochEnds().should_save(moment, last=LastSave(step=step, epoch=before))
    assert due == (epoch > before)


def test_improvements_are_saved_and_the_best_survives_a_restart(tmp_path: Path) -> None:
    made = options(
        OnImprovement("bleu"), rtf.EverySteps(5), keep=[rtf.KeepBest(1, "bleu")]
    )
    bleu = [None, 20.0, 19.0, 21.5, 21.5, 3.0, float("nan"), 21.0, 22.0]
    assert train(tmp_path, 5, made, bleu=bleu) == [1, 3, 5]
    assert steps_in(tmp_path) == [3, 5]
    assert train(tmp_path, 8, made, bleu=bleu) == [8]
    assert steps_in(tmp_path) == [8]


def test_a_lower_loss_is_an_improvement_if_so_said() -> None:
    policy = OnImprovement("loss", is_higher_better=False)
    for value, due in ((0.4, True), (0.5, False), (0.7, False), (float("nan"), False)):
        moment = Moment(
            step=2, metrics={"loss": value}, saved_metrics={"loss": (0.5, 0.9)}
        )
        assert policy.should_save(moment, last=LastSave(step=1)) == due
    assert not policy.should_save(Moment(step=2), last=LastSave(step=1))


def test_checkpoints_that_a_resume_has_left_behind_do_not_count(tmp_path: Path) -> None:
    made = options(OnImprovement("bleu"))
    train(tmp_path, 2, made, bleu=[None, 20.0, 30.0])
    state = small_state(data=Epochs())
    with Checkpointer(str(tmp_path), options=made) as checkpointer:
        checkpointer.restore(state, 1)
        advance(state)
        assert checkpointer.maybe_save(state, metrics={"bleu": 25.0}) is not None


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (rtf.KeepBest(2, "bleu"), [2, 4, 8]),
        (rtf.KeepBest(2, "bleu", is_higher_better=False), [1, 6, 8]),
        (rtf.KeepMultiples(3), [3, 6, 8]),
        (rtf.KeepPinned([2, 5]), [2, 5, 8]),
        (rtf.KeepNewest(2), [7, 8]),
        # A save every 20 minutes from 0:20 on.
        (rtf.KeepOnePer(3600.0), [1, 3, 6, 8]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_kept_is_the_same_with_and_without_restarts(
    tmp_path: Path, keep: KeepPolicy, kept: list[int]
) -> None:
    bleu = [None, 10.0, 30.0, 20.0, 40.0, 15.0, 5.0, 12.0, 11.0]
    for name, stops in (("whole", [8]), ("pieces", [1, 4, 8])):
        times: Iterator[float] = iter(range(1200, 99_000, 1200))
        made = options(keep=[keep], clock=lambda times=times: next(times))
        for stop in stops:
            train(tmp_path / name, stop, made, bleu=bleu, every_steps=1)
        assert steps_in(tmp_path / name) == kept


def test_each_manifest_is_read_once_by_a_start_however_many_it_saves(
    tmp_path: Path,
) -> None:
    made = options(keep=[rtf.KeepMultiples(1), rtf.KeepBest(2, "bleu")])
    train(tmp_path, 4, made, every_steps=1)
    made = options(keep=[rtf.KeepMultiples(2), rtf.KeepBest(2, "bleu")])
    storage = FaultyStorage(LocalStorage(str(tmp_path)), fail_at=NEVER)
    train(storage, 9, made, every_steps=1)
    assert steps_in(tmp_path) == [2, 4, 6, 8, 9]
    reads = [line for line in storage.log if line.startswith("read checkpoints/ckpt-")]
    old = [line for line in reads if line.endswith("ckpt-2.manifest.json")]
    # For its metrics and for TensorFlow's list of checkpoints alike.
    assert len(old) == 1, reads
    assert not [line for line in reads if line.endswith("ckpt-9.manifest.json")]


def gated(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Holds all writing until the event is set."""
    gate, write = threading.Event(), bundle.BundleWriter.write

    def held(*arguments: Any, **keywords: Any) -> Any:
        assert gate.wait(60)
        return write(*arguments, **keywords)

    monkeypatch.setattr(bundle.BundleWriter, "write", held)
    return gate


def test_a_due_save_is_skipped_and_counted_while_one_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate, state = gated(monkeypatch), small_state()
    made = SaveOptions(when_busy="skip")
    with Checkpointer(str(tmp_path), every_steps=2, options=made) as checkpointer:
        for _ in range(11):
            advance(state)
            checkpointer.maybe_save(state)
        assert checkpointer.num_skipped == 4
        gate.set()
        checkpointer.wait(for_due=False)
        advance(state)
        assert checkpointer.maybe_save(state) is not None
    assert steps_in(tmp_path) == [2, 12]
    lines = [r.getMessage() for r in caplog.records if "is skipped" in r.getMessage()]
    assert len(lines) == 3  # The 1st, 2nd and 4th.
    assert "the save of step 4 is skipped" in lines[0]


def test_due_saves_are_coalesced_into_one_when_the_storage_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, state = gated(monkeypatch), small_state()
    made = SaveOptions(when_busy="coalesce")
    with Checkpointer(str(tmp_path), every_steps=2, options=made) as checkpointer:
        for _ in range(9):
            advance(state)
            checkpointer.maybe_save(state)
        gate.set()
        checkpointer.wait(for_due=False)
        handles = []
        for _ in range(4):
            advance(state)
            handles.append(checkpointer.maybe_save(state))
            checkpointer.wait(for_due=False)
        # The one for 4, 6 and 8 at step 10, which is due itself; then 12.
        assert [handle and handle.step for handle in handles] == [10, None, 12, None]
        assert checkpointer.num_skipped == 0
    assert steps_in(tmp_path) == [2, 10, 12]


def test_a_coalesced_save_is_taken_at_the_next_call_and_an_explicit_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, state = gated(monkeypatch), small_state()
    made = SaveOptions(when_busy="coalesce")
    with Checkpointer(str(tmp_path), every_steps=4, options=made) as checkpointer:
        advance(state, 4)
        assert checkpointer.maybe_save(state) is not None
        advance(state, 4)
        assert checkpointer.maybe_save(state) is None
        gate.set()
        checkpointer.wait(for_due=False)
        advance(state)
        assert checkpointer.maybe_save(state) is not None  # 9, for 8.
        advance(state)
        checkpointer.save(state)
    assert steps_in(tmp_path) == [4, 9, 10]


def test_periods_follow_a_clock_that_never_jumps(tmp_path: Path) -> None:
    """Someone sets the wall clock back by a year, then ahead by ten."""
    wall, elapsed = [1.7e9], [0.0]
    made = options(
        keep=[rtf.KeepOnePer(3600.0)],
        clock=lambda: wall[0],
        elapsed=lambda: elapsed[0],
    )
    state, saved = small_state(), []
    with Checkpointer(
        str(tmp_path), every_secs=600.0, keep_last=2, options=made
    ) as checkpointer:
        for step in range(1, 41):
            advance(state)
            elapsed[0] += 100.0
            wall[0] += {11: -3e7, 25: 3e8}.get(step, 100.0)
            if checkpointer.maybe_save(state) is not None:
                saved.append(step)
            newest = checkpointer.latest()
            assert newest is None or newest.step == saved[-1]
    assert saved == list(range(6, 41, 6))
    # One of each hour of the wall clock, as it went, and the newest two.
    assert steps_in(tmp_path) == [6, 12, 30, 36]
    again = small_state()
    Checkpointer(str(tmp_path)).restore(again)
    assert_at_step(again, 36)


def test_an_automatic_interval_saves_early_and_then_rarely(tmp_path: Path) -> None:
    """Through the checkpointer: the snapshot and the thread are timed."""
    ticks = [0.0]

    def elapsed() -> float:
        ticks[0] += 0.5
        return ticks[0]

    state, saved = small_state(), []
    made = SaveOptions(elapsed=elapsed)
    with Checkpointer(str(tmp_path), every_steps="auto", options=made) as checkpointer:
        checkpointer.restore_or_initialize(state)
        assert checkpointer.next_save_step(0) is None
        for step in range(1, 120):
            advance(state)
            ticks[0] += 10.0
            if checkpointer.maybe_save(state) is not None:
                saved.append(step)
                checkpointer.wait()
    # 30 s first; then the snapshot and its ticks cost about 1 to 2 s, 1% of 100 to
    # 200 s, while Daly's interval for 4 hours is 170 to 240 s.
    assert saved[0] == 3
    gaps = [after - before for before, after in itertools.pairwise(saved)]
    assert gaps and all(14 <= gap <= 50 for gap in gaps)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"when_busy": "never"}, "when_busy must be one of wait, skip, coalesce, not"),
        ({"on_storage_error": "go"}, "on_storage_error must be one of stop, continue"),
        ({"when_busy": "skip", "asynchronous": False}, "has no effect"),
    ],
)
def test_options_that_can_not_work_are_refused(
    arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        SaveOptions(**arguments)


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="resumable_tf")
