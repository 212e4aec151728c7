"""Two tiers: where a save goes, what is restored, whose a fast tier is.

Guards against a checkpoint of another life or another run that is taken for this
one's, against a copy that holds up training, and against one that is lost.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.small_state import advance, assert_at_step, small_state
from helpers.two_tiers import Machine, steps_in

from resumable_tf.checkpoint import Catalog, FastTier
from resumable_tf.checkpoint.integrity import verify_run
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.errors import (
    CheckpointCorruptError,
    FastTierMismatchError,
    RunInUseError,
    SaveError,
    UsageError,
)
from resumable_tf.storage import open_storage
from resumable_tf.training.config import TrainConfig

ROOT = Path(__file__).parents[2]


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


def damage(directory: Path) -> None:
    for path in directory.glob("checkpoints/ckpt-*.data-*"):
        path.write_bytes(b"")


def test_damage_in_the_fast_tier_alone_does_not_begin_the_run_anew(
    here: Machine,
) -> None:
    """Killed before the first copy; a supervisor starts again and again."""
    here.train(2, every_steps=100)
    damage(here.fast_dir)
    place = f"left in place in {here.fast_dir}/checkpoints. "
    with pytest.raises(CheckpointCorruptError, match=place):
        here.restored()
    place = f"{here.run_dir}/checkpoints can be read.* are moved to {here.fast_dir}/"
    for _ in range(2):
        with pytest.raises(CheckpointCorruptError, match=place) as caught:
            here.train(3)
        assert "are moved to" in str(caught.value)
        assert f"{here.run_dir}/checkpoints/quarantine" not in str(caught.value)


def test_what_another_run_has_left_in_quarantine_does_not_matter(
    here: Machine, tmp_path: Path
) -> None:
    here.train(2, every_steps=100)
    damage(here.fast_dir)
    with pytest.raises(CheckpointCorruptError):
        here.train(3)
    here.run_dir = str(tmp_path / "another")
    for _ in range(2):  # The second finds its own record in the fast tier.
        with here.checkpointer() as checkpointer:
            assert checkpointer.restore_or_initialize(small_state()) is None
    here.train(2, every_steps=100)
    damage(here.fast_dir)
    with pytest.raises(CheckpointCorruptError):
        here.train(3)


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
    assert here.steps() == ([5, 6], [7])
    assert here.restored() == 6
    assert here.train(6) == 6
    assert here.steps() == ([5, 6], [7])
    assert here.restored() == 6
    # Without the fast tier it is still there.
    assert there.restored() == 7


def test_the_only_durable_one_is_back_if_a_copy_that_takes_its_place_fails(
    here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.train(7, every_steps=7)
    create = type(open_storage(here.run_dir)).create

    def fail(storage: Any, name: str, data: bytes) -> None:
        if name.endswith("ckpt-6.manifest.json") and storage.root == here.run_dir:
            assert steps_in(here.run_dir) == []
            raise OSError("injected")
        create(storage, name, data)

    with monkeypatch.context() as patch:
        patch.setattr("resumable_tf.storage.LocalStorage.create", fail)
        with pytest.raises(SaveError, match="injected"):
            here.train(6, from_step=5, every_steps=6)
    assert here.steps() == ([5, 6], [7])
    assert there.restored() == 7
    assert here.train(6) == 6
    assert here.steps() == ([5, 6], [7])


def test_nor_does_it_when_the_first_save_of_the_new_life_fails(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.train(7, every_steps=7)
    state, write, fails = small_state(), Tier.write, [True]

    def failing_once(tier: Tier, *arguments: Any) -> Any:
        if fails:
            fails.clear()
            raise OSError("injected")
        return write(tier, *arguments)

    monkeypatch.setattr(Tier, "write", failing_once)
    checkpointer = here.checkpointer(every_steps=100)
    checkpointer.restore(state, 5)
    advance(state)
    with pytest.raises(SaveError, match="injected"):
        checkpointer.save(state, in_durable=False).result()
    checkpointer.save(state, in_durable=False).result()
    checkpointer.close()
    assert here.restored() == 6
    assert here.train(6) == 6


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
