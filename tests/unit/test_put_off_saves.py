"""What was due and put off is made by `wait` and `close`.

Guards against a run directory that is behind its policy after a normal end: a save that
comes due during a copy, or during another save, used to be forgotten with the process.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers.faulty_storage import FaultyStorage
from helpers.small_state import advance, assert_at_step, small_state
from helpers.two_tiers import steps_in, train_on
from hypothesis import given, settings
from hypothesis import strategies as st

import resumable_tf as rtf
from resumable_tf.checkpoint import (
    Catalog,
    Checkpointer,
    FastTier,
    Manifest,
    SaveOptions,
    bundle,
    tier,
)
from resumable_tf.checkpoint.layout import bundle_name, manifest_name
from resumable_tf.checkpoint.manifest import FileRecord, hex_crc32c
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.errors import SaveError
from resumable_tf.storage import open_storage
from resumable_tf.training.last_save import save_in_time
from resumable_tf.training.preemption import Preempted


class Held:
    """Holds up copies and writes until they may go on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.copies, self.writes = threading.Event(), threading.Event()
        self.writes.set()
        copy, write = Tier.copy, bundle.BundleWriter.write

        def held_copy(*arguments: Any, **keywords: Any) -> Any:
            assert self.copies.wait(60)
            return copy(*arguments, **keywords)

        def held_write(*arguments: Any, **keywords: Any) -> Any:
            assert self.writes.wait(60)
            return write(*arguments, **keywords)

        patch.setattr(Tier, "copy", held_copy)
        patch.setattr(bundle.BundleWriter, "write", held_write)

    def let_go(self) -> None:
        self.writes.set()
        self.copies.set()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


def saver(
    directory: Path,
    *,
    fast_every: int | None = 1,
    every_steps: int | None = 3,
    **options: Any,
) -> Checkpointer:
    fast = None if fast_every is None else FastTier(directory / "fast", fast_every)
    return Checkpointer(
        str(directory / "run"),
        every_steps=every_steps,
        options=SaveOptions(fast_tier=fast, **options),
    )


def finish_fast_saves(checkpointer: Checkpointer) -> None:
    checkpointer._saving.writer.finish()


def test_a_save_put_off_for_a_copy_reaches_the_run_directory_at_the_end(
    tmp_path: Path, held: Held
) -> None:
    state = small_state()
    with saver(tmp_path) as checkpointer:
        checkpointer.restore_or_initialize(state)
        train_on(state, checkpointer, 12)
        finish_fast_saves(checkpointer)
        assert steps_in(tmp_path / "run") == []
        held.copies.set()
    assert steps_in(tmp_path / "run") == [3, 12]
    assert checkpointer.durable_step == 12
    again = small_state()
    Checkpointer(str(tmp_path / "run")).restore(again)
    assert_at_step(again, 12)


def test_wait_makes_it_too_and_it_is_not_made_twice(tmp_path: Path, held: Held) -> None:
    state = small_state()
    with saver(tmp_path) as checkpointer:
        checkpointer.restore_or_initialize(state)
        train_on(state, checkpointer, 7)
        finish_fast_saves(checkpointer)
        held.copies.set()
        checkpointer.wait()
        assert steps_in(tmp_path / "run") == [3, 7]
        train_on(state, checkpointer, 8)
        checkpointer.wait()
        assert steps_in(tmp_path / "run") == [3, 7]
        train_on(state, checkpointer, 9)
    assert steps_in(tmp_path / "run") == [3, 7, 9]


def test_what_the_fast_tier_does_not_have_is_saved_at_the_end(
    tmp_path: Path, held: Held
) -> None:
    state = small_state()
    with saver(tmp_path, fast_every=100) as checkpointer:
        checkpointer.restore_or_initialize(state)
        train_on(state, checkpointer, 6)
        held.copies.set()
    assert steps_in(tmp_path / "run") == [3, 6]


@pytest.mark.parametrize("when_busy", ["skip", "coalesce"])
@pytest.mark.parametrize("fast_every", [None, 1, 4])
def test_the_last_save_that_met_a_busy_storage_is_made_at_the_end(
    tmp_path: Path,
    held: Held,
    when_busy: Literal["skip", "coalesce"],
    fast_every: int | None,
) -> None:
    held.copies.set()
    held.writes.clear()
    state = small_state()
    metrics = {"loss": 0.5}
    made = saver(tmp_path, fast_every=fast_every, when_busy=when_busy)
    with made as checkpointer:
        checkpointer.restore_or_initialize(state)
        train_on(state, checkpointer, 11)
        advance(state)
        assert checkpointer.maybe_save(state, metrics=metrics) is None
        held.writes.set()
    assert steps_in(tmp_path / "run")[-1] == 12
    found = rtf.Checkpointer(str(tmp_path / "run")).latest()
    assert found is not None and found.manifest.metrics == metrics
    again = small_state()
    Checkpointer(str(tmp_path / "run")).restore(again)
    assert_at_step(again, 12)


def test_a_coalesced_fast_save_is_made_at_the_end(tmp_path: Path, held: Held) -> None:
    held.writes.clear()
    state = small_state()
    made = saver(tmp_path, every_steps=100, when_busy="coalesce")
    with made as checkpointer:
        checkpointer.restore_or_initialize(state)
        train_on(state, checkpointer, 3)
        held.writes.set()
    assert steps_in(tmp_path / "fast") == [1, 3]
    assert steps_in(tmp_path / "run") == []


def test_a_state_in_the_middle_of_a_step_is_not_saved(
    tmp_path: Path, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop breaks off between the step and `state.step += 1`."""
    held.writes.clear()
    state = small_state()
    with saver(tmp_path, fast_every=None, when_busy="coalesce") as checkpointer:
        checkpointer.restore_or_initialize(state)
        train_on(state, checkpointer, 6)
        state.trackables["small"].counter.assign_add(1)
        held.writes.set()
    assert steps_in(tmp_path / "run") == [3]
    assert "due at step 6 and put off, and is not made now" in caplog.text


def test_after_an_error_only_what_is_committed_is_copied(
    tmp_path: Path, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    state = small_state()
    with (
        pytest.raises(KeyError),
        saver(tmp_path, fast_every=5) as checkpointer,
    ):
        checkpointer.restore_or_initialize(state)
        train_on(state, checkpointer, 10)
        finish_fast_saves(checkpointer)
        train_on(state, checkpointer, 12)
        held.copies.set()
        raise KeyError("in a step")
    assert steps_in(tmp_path / "run") == [3]
    assert "due at step 12 and put off, and is not made now" in caplog.text


def test_after_an_error_the_fast_tiers_checkpoint_is_copied(
    tmp_path: Path, held: Held
) -> None:
    state = small_state()
    with pytest.raises(KeyError), saver(tmp_path) as checkpointer:
        checkpointer.restore_or_initialize(state)
        train_on(state, checkpointer, 7)
        held.copies.set()
        raise KeyError("in a step")
    assert steps_in(tmp_path / "run") == [3, 7]


@pytest.mark.parametrize(("left_secs", "expected"), [(0.0, [3]), (25.0, [3, 7])])
def test_a_preempted_training_takes_no_more_time_than_it_has(
    tmp_path: Path,
    held: Held,
    caplog: pytest.LogCaptureFixture,
    left_secs: float,
    expected: list[int],
) -> None:
    state = small_state()
    with pytest.raises(Preempted), saver(tmp_path) as checkpointer:
        checkpointer.restore_or_initialize(state)
        train_on(state, checkpointer, 7)
        held.copies.set()
        save_in_time(state, checkpointer, lambda: left_secs)
        raise Preempted("SIGTERM", step=7)
    assert steps_in(tmp_path / "run") == expected
    assert ("step 7 stays in the fast tier only" in caplog.text) == (left_secs == 0.0)


def test_what_was_put_off_after_a_failure_is_made_or_the_failure_raised(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.copies.set()
    upload = "resumable_tf.checkpoint.tier.upload_files"

    def fail(*_: Any) -> None:
        raise OSError("injected")

    state = small_state()
    made = saver(tmp_path, on_storage_error="continue")
    with made as checkpointer:
        checkpointer.restore_or_initialize(state)
        with monkeypatch.context() as patch:
            patch.setattr(upload, fail)
            train_on(state, checkpointer, 3)
            checkpointer.wait()
        held.copies.clear()
        train_on(state, checkpointer, 9)
        held.copies.set()
    assert steps_in(tmp_path / "run") == [6, 9]
    monkeypatch.setattr(upload, fail)
    with pytest.raises(SaveError, match="step 12"), saver(tmp_path) as checkpointer:
        assert checkpointer.restore_or_initialize(state) is not None
        held.copies.clear()
        train_on(state, checkpointer, 12)
        held.copies.set()


@pytest.mark.parametrize("fast_every", [None, 100])
def test_an_improvement_counts_while_it_is_saved(
    fast_every: int | None, tmp_path: Path, held: Held
) -> None:
    """A lesser one found meanwhile would take its place in what is put off."""
    state = small_state()
    improvement = [rtf.OnImprovement("bleu")]
    with saver(
        tmp_path, fast_every=fast_every, every_steps=None, save_when=improvement
    ) as checkpointer:
        checkpointer.restore_or_initialize(state)
        held.writes.clear()
        advance(state)
        checkpointer.maybe_save(state, metrics={"bleu": 7.0})
        assert not checkpointer.should_save(2, metrics={"bleu": 6.0})
        assert checkpointer.should_save(2, metrics={"bleu": 8.0})
        held.let_go()


class InMemory(FaultyStorage):
    """A storage that says it is local; the fake bundle has no files."""

    directory = ""

    def local_path(self, name: str) -> str | None:
        return f"{self.directory}/{name}".rstrip("/")


def write_manifest(
    _writer: Any, _: Any, storage: Any, draft: Manifest, *, check_right: Any
) -> Manifest:
    check_right()
    endings = ("data-00000-of-00001", "index")
    names = [f"{bundle_name(draft.step)}.{ending}" for ending in endings]
    files = tuple(FileRecord(name, 0, hex_crc32c(0)) for name in names)
    topology = {"num_replicas": 1}
    draft = dataclasses.replace(draft, files=files, topology=topology)
    storage.create(manifest_name(draft.step), draft.to_bytes())
    return draft


numbers = itertools.count()


@settings(max_examples=80)
@given(
    every=st.integers(1, 5),
    fast_every=st.one_of(st.none(), st.integers(1, 5)),
    when_busy=st.sampled_from(["wait", "skip", "coalesce"]),
    bleus=st.lists(st.one_of(st.none(), st.integers(0, 9)), min_size=4, max_size=14),
    opened=st.sets(st.integers(1, 14)),
)
def test_after_the_end_the_run_directory_has_the_newest_that_was_asked_for(
    every: int,
    fast_every: int | None,
    when_busy: Literal["wait", "skip", "coalesce"],
    bleus: list[int | None],
    opened: set[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Copies and saves end after certain steps only; at the end all of them do."""
    root = f"memory://put-off-{next(numbers)}"
    run = InMemory(open_storage(f"{root}/run"), fail_at=-1)
    InMemory.directory = str(tmp_path_factory.getbasetemp() / "fast")
    in_ram = InMemory(open_storage(f"{root}/fast"), fail_at=-1)
    fast = None if fast_every is None else FastTier(in_ram, every_steps=fast_every)
    options = SaveOptions(
        save_when=[rtf.OnImprovement("bleu")], fast_tier=fast, when_busy=when_busy
    )
    state = small_state(size=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle.BundleWriter, "write", write_manifest)
        # Manifests alone are written and copied; the files they name are not there.
        patch.setattr(tier, "upload_files", lambda storage, uploads: None)
        held = Held(patch)
        made = Checkpointer(run, every_steps=every, keep_last=None, options=options)
        with made as checkpointer:
            checkpointer.restore_or_initialize(state)
            for step, bleu in enumerate(bleus, 1):
                # Training that waits for a save would wait for ever.
                (held.writes.set if when_busy == "wait" else held.writes.clear)()
                held.copies.clear()
                advance(state)
                metrics = None if bleu is None else {"bleu": float(bleu)}
                checkpointer.maybe_save(state, metrics=metrics)
                if step in opened:
                    held.let_go()
                    checkpointer._saving.finish()
            held.let_go()
    catalog = Catalog(run)
    assert max(catalog.steps(), default=0) >= len(bleus) // every * every
    if when_busy == "wait":
        saved = [one.metrics.get("bleu", -1) for one in catalog.candidates()]
        best = max(-1 if bleu is None else bleu for bleu in bleus)
        assert max(saved, default=-1) >= best
