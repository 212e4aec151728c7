"""Two tiers: where a save goes, what is restored, whose a fast tier is.

Guards against a checkpoint of another life or another run that is taken for this
one's, against a copy that holds up training, and against one that is lost.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Catalog, Checkpointer, FastTier, SaveOptions
from resumable_tf.checkpoint.integrity import verify_run
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.errors import (
    CheckpointCorruptError,
    FastTierMismatchError,
    RunInUseError,
    SaveError,
    UsageError,
)
from resumable_tf.state import TrainState
from resumable_tf.storage import open_storage
from resumable_tf.training.config import TrainConfig
from resumable_tf.training.preemption import save_last

ROOT = Path(__file__).parents[2]


class Machine:
    """A machine with a fast tier of its own; the run directory is everybody's."""

    def __init__(self, directory: Path, name: str = "here") -> None:
        self.run_dir = str(directory / "run")
        self.fast_dir = directory / f"fast-{name}"

    def checkpointer(self, **arguments: Any) -> Checkpointer:
        fast = FastTier(self.fast_dir, every_steps=1, keep_last=3)
        options = SaveOptions(fast_tier=fast)
        return Checkpointer(
            self.run_dir, keep_last=2, options=options, **{"every_steps": 5} | arguments
        )

    def train(
        self, to_step: int, *, from_step: int | None = None, **arguments: Any
    ) -> int:
        """Goes on to a step, saving after each; returns the step it began with."""
        state = small_state()
        with self.checkpointer(**arguments) as checkpointer:
            if from_step is None:
                checkpointer.restore_or_initialize(state)
            else:
                checkpointer.restore(state, from_step)
            begin = state.step
            assert_at_step(state, begin)
            train_on(state, checkpointer, to_step)
        return begin

    def restored(self) -> int:
        state = small_state()
        self.checkpointer().restore(state)
        assert_at_step(state, state.step)
        return state.step

    def steps(self) -> tuple[list[int], list[int]]:
        return steps_in(self.fast_dir), steps_in(self.run_dir)


def train_on(state: TrainState, checkpointer: Checkpointer, to_step: int) -> None:
    while state.step < to_step:
        advance(state)
        checkpointer.maybe_save(state)


def steps_in(directory: str | Path) -> list[int]:
    return Catalog(open_storage(directory)).steps()


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def there(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "there")


def test_each_tier_is_saved_to_and_pruned_by_its_own_policy(here: Machine) -> None:
    assert here.train(17) == 0
    assert here.steps() == ([15, 16, 17], [10, 15])
    one, other = (
        Path(directory, "checkpoints/ckpt-15.manifest.json").read_bytes()
        for directory in (here.fast_dir, here.run_dir)
    )
    assert one == other
    found = here.checkpointer().checkpoints()
    assert [info.step for info in found] == [10, 15, 16, 17]
    assert found[1].path.startswith(here.run_dir)
    latest = here.checkpointer().latest()
    assert latest is not None and latest.step == 17


def test_the_newest_of_both_tiers_is_restored(here: Machine) -> None:
    here.train(7)
    assert here.restored() == 7
    assert here.train(8) == 7


def test_without_the_machine_the_durable_tier_goes_on(
    here: Machine, there: Machine
) -> None:
    here.train(8)
    shutil.rmtree(here.fast_dir)
    assert here.train(9) == 5
    assert there.train(12) == 5
    assert there.steps() == ([10, 11, 12], [5, 10])


def test_a_fast_tier_that_the_run_has_left_behind_is_not_restored(
    here: Machine, there: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """However high its steps are: another machine may have changed the batch size."""
    here.train(9)
    there.train(6, every_steps=1)
    assert here.steps() == ([7, 8, 9], [5, 6])
    assert here.restored() == 6
    assert [info.step for info in here.checkpointer().checkpoints()] == [5, 6]
    assert here.train(7) == 6
    assert "the run has gone on elsewhere" in caplog.text
    assert here.steps() == ([7], [5, 6])


def test_a_fast_tier_counts_again_if_nothing_was_saved_elsewhere(
    here: Machine, there: Machine
) -> None:
    here.train(9)
    assert there.train(5) == 5
    assert here.train(10) == 9


def test_another_runs_fast_tier_is_refused_and_left_alone(here: Machine) -> None:
    here.train(7)
    before = here.steps()[0]
    shutil.rmtree(here.run_dir)
    for restore in ("restore_or_initialize", "restore"):
        with pytest.raises(FastTierMismatchError, match="another run") as caught:
            getattr(here.checkpointer(), restore)(small_state())
        assert caught.value.saved["run_id"] != caught.value.now["run_id"]
    assert steps_in(here.fast_dir) == before
    shutil.rmtree(here.fast_dir)
    assert here.train(1) == 0


def test_a_copy_of_a_run_is_another_run(here: Machine, tmp_path: Path) -> None:
    here.train(7)
    shutil.copytree(here.run_dir, tmp_path / "copy")
    here.run_dir = str(tmp_path / "copy")
    with pytest.raises(FastTierMismatchError, match="copy"):
        here.restored()


def test_a_run_directory_is_no_fast_tier(here: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path / "other")
    other.train(5)
    here.fast_dir = Path(other.run_dir)
    with pytest.raises(FastTierMismatchError, match="does not say of which run"):
        here.train(1)
    here.fast_dir = Path(here.run_dir)
    with pytest.raises(UsageError, match="directory of its own"):
        here.checkpointer()
    with pytest.raises(UsageError, match="no local directory"):
        FastTier("memory://fast")


HOLD = """
import sys
from resumable_tf.checkpoint.lease import Lease
from resumable_tf.storage import open_storage
lease = Lease(open_storage(sys.argv[1]))
lease.take()
print("held", flush=True)
sys.stdin.read()
"""


def test_one_fast_tier_serves_one_process(here: Machine) -> None:
    """Also if they have different run directories."""
    command = [sys.executable, "-c", HOLD, str(here.fast_dir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunInUseError, match="fast-here is in use"):
            here.checkpointer().restore_or_initialize(small_state())
        assert not Path(here.run_dir, "lease.json").exists()
        other.kill()
    assert here.train(1) == 0


@pytest.mark.parametrize("tier", ["fast", "durable"])
def test_a_damaged_checkpoint_gives_way_to_its_copy(here: Machine, tier: str) -> None:
    here.train(5)
    directory = Path(here.fast_dir if tier == "fast" else here.run_dir)
    data = directory / "checkpoints" / "ckpt-5.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    assert here.restored() == 5
    assert data.exists()
    state = small_state()
    here.checkpointer().restore(state, 5)
    assert_at_step(state, 5)
    assert here.train(6) == 5
    assert data.exists() == (tier == "durable")
    quarantined = Catalog(open_storage(here.fast_dir)).quarantined()
    assert bool(quarantined) == (tier == "fast")


def test_damage_in_both_tiers_costs_no_more_than_it_must(here: Machine) -> None:
    here.train(12)
    for path in here.fast_dir.glob("checkpoints/ckpt-*.data-*"):
        path.write_bytes(b"")
    Path(here.run_dir, "checkpoints/ckpt-10.index").unlink()
    assert here.train(6) == 5
    for directory in (here.run_dir, here.fast_dir):
        for path in Path(directory).glob("checkpoints/ckpt-*.manifest.json"):
            path.write_bytes(b"")
    with pytest.raises(CheckpointCorruptError, match="no checkpoint"):
        here.train(7)


def test_going_on_from_an_earlier_step_supersedes_both_tiers(here: Machine) -> None:
    here.train(11)
    assert here.train(7, from_step=5) == 5
    assert here.steps() == ([6, 7], [5])
    assert here.restored() == 7
    assert here.train(12) == 7
    assert here.steps() == ([10, 11, 12], [5, 10])


def test_a_superseded_checkpoint_does_not_come_back_over_the_fast_tier(
    here: Machine, there: Machine
) -> None:
    """The only durable one is newer than where training went on from."""
    here.train(7, every_steps=7)
    assert here.steps() == ([5, 6, 7], [7])
    here.train(6, from_step=5, every_steps=100)
    assert here.steps() == ([5, 6], [])
    assert here.restored() == 6
    # The next start finds the durable tier empty and brings back what it had.
    assert here.train(6) == 6
    assert here.steps() == ([5, 6], [7])
    assert here.restored() == 6
    # Without the fast tier it is still there.
    assert there.restored() == 7


class Gate:
    """Holds up copies until it is opened; counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.event = threading.Event()
        self.begun: list[int] = []
        copy = Tier.copy

        def held(tier: Tier, source: Tier, step: int, **rest: Any) -> Any:
            self.begun.append(step)
            assert self.event.wait(60)
            return copy(tier, source, step, **rest)

        monkeypatch.setattr(Tier, "copy", held)


def test_a_slow_copy_holds_up_neither_training_nor_fast_saves(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    state = small_state()
    with here.checkpointer() as checkpointer:
        checkpointer.restore_or_initialize(state)
        train_on(state, checkpointer, 13)
        handle = checkpointer.maybe_save(state)
        assert handle is None
        checkpointer._saving.writer.wait()
        # What is being copied is not deleted; what is due meanwhile stays due.
        assert here.steps() == ([5, 11, 12, 13], [])
        assert gate.begun == [5]
        assert checkpointer.committed_step == 13
        gate.event.set()
        checkpointer.wait()
        train_on(state, checkpointer, 14)
    assert gate.begun == [5, 14]
    assert here.steps() == ([12, 13, 14], [5, 14])


def test_save_goes_to_both_tiers_and_close_waits_for_them(here: Machine) -> None:
    state = small_state()
    with here.checkpointer() as checkpointer:
        checkpointer.restore_or_initialize(state)
        for _ in range(3):
            advance(state)
            handle = checkpointer.save(state)
            assert handle.result().path.startswith(str(here.fast_dir))
    assert here.steps() == ([1, 2, 3], [2, 3])


def test_a_copy_that_fails_raises_at_the_next_call_and_can_be_made_up_for(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("injected")

    state = small_state()
    with here.checkpointer() as checkpointer:
        checkpointer.restore_or_initialize(state)
        with monkeypatch.context() as patch:
            patch.setattr(Tier, "copy", fail)
            train_on(state, checkpointer, 5)
            with pytest.raises(SaveError, match=r"step 5 .*injected"):
                checkpointer.wait()
        checkpointer.raise_failure()
        advance(state)
        checkpointer.save(state)
    assert here.steps() == ([4, 5, 6], [6])


def test_training_goes_on_over_failed_copies_but_the_last_must_succeed(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("injected")

    monkeypatch.setattr(Tier, "copy", fail)
    fast = FastTier(here.fast_dir, every_steps=1)
    options = SaveOptions(fast_tier=fast, on_storage_error="continue")
    state = small_state()
    checkpointer = Checkpointer(here.run_dir, every_steps=2, options=options)
    checkpointer.restore_or_initialize(state)
    for step in range(1, 6):
        train_on(state, checkpointer, step)
        checkpointer.wait()
    assert checkpointer.failures.count == 2
    assert (checkpointer.committed_step, checkpointer.durable_step) == (5, 0)
    with pytest.raises(SaveError, match=r"step 4 .*injected"):
        checkpointer.close()


def test_a_copy_that_was_cut_short_is_completed_by_the_next_start(
    here: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    create = type(open_storage(here.run_dir)).create

    def fail(storage: Any, name: str, data: bytes) -> None:
        if name.endswith("ckpt-5.manifest.json") and storage.root == here.run_dir:
            raise OSError("injected")
        create(storage, name, data)

    with monkeypatch.context() as patch:
        patch.setattr("resumable_tf.storage.LocalStorage.create", fail)
        with pytest.raises(SaveError, match="injected"):
            here.train(5)
    assert here.steps() == ([3, 4, 5], [])
    with here.checkpointer() as checkpointer:
        checkpointer.restore_or_initialize(small_state())
        checkpointer.wait()
    assert "completing the copy of step 5" in caplog.text
    assert here.steps() == ([3, 4, 5], [5])


def test_a_durable_save_that_is_missing_is_made_up_for(here: Machine) -> None:
    """Killed after step 5 came due, before its copy: due at the first chance."""
    here.train(6, every_steps=100)
    assert here.train(7) == 6
    assert here.steps() == ([5, 6, 7], [7])


def test_the_commands_read_a_fast_tier_like_a_run(here: Machine) -> None:
    here.train(6)
    reports = list(verify_run(open_storage(here.fast_dir)))
    assert [(report.step, report.is_good) for report in reports] == [
        *((4, True), (5, True), (6, True))
    ]


def test_the_flags_of_a_fast_tier_are_checked_and_not_in_the_fingerprint() -> None:
    with pytest.raises(UsageError, match="--fast-dir and --fast-every-steps together"):
        TrainConfig("run", fast_dir="fast")
    flags: dict[str, Any] = {"fast_dir": "fast", "fast_every_steps": 5}
    with pytest.raises(UsageError, match="multi_worker"):
        TrainConfig("run", strategy="multi_worker", **flags)
    config, plain = TrainConfig("run", **flags), TrainConfig("run")
    model = plain.model_config(100)
    assert config.fingerprinted(model) == plain.fingerprinted(model)
    fast_tier = config.save_options.fast_tier
    assert fast_tier is not None and fast_tier.every_steps == 5


def test_the_last_state_is_left_in_the_run_directory(here: Machine) -> None:
    state = small_state()
    with here.checkpointer() as checkpointer:
        checkpointer.restore_or_initialize(state)
        train_on(state, checkpointer, 7)
        checkpointer.wait()
        assert (checkpointer.committed_step, checkpointer.durable_step) == (7, 5)
        save_last(state, checkpointer)
        assert checkpointer.durable_step == 7
    assert here.steps() == ([5, 6, 7], [5, 7])
