"""What the Checkpointer promises beyond saving and restoring."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.saved_runs import save_steps, steps_in
from helpers.small_state import (
    FixedData,
    advance,
    assert_at_step,
    small_state,
    values,
)
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable

from resumable_tf.checkpoint import Checkpointer, SaveOptions
from resumable_tf.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    ConfigMismatchError,
    DataMismatchError,
    NoCheckpointError,
    StateError,
    UsageError,
)
from resumable_tf.state import TrainState


def test_the_constructor_does_no_io(tmp_path: Path) -> None:
    Checkpointer(str(tmp_path / "run"), every_steps=1, config={"a": 1})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_run_that_can_not_be_listed_is_not_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    save_steps(tmp_path, 1, 2)
    scandir = os.scandir

    def fail(path: int) -> Any:
        if os.readlink(f"/proc/self/fd/{path}").endswith("checkpoints"):
            raise OSError(number, os.strerror(number), path)
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", fail)
        for start in (Checkpointer.restore_or_initialize, Checkpointer.restore):
            with pytest.raises(OSError, match=os.strerror(number)):
                start(Checkpointer(str(tmp_path)), small_state())
    assert steps_in(tmp_path) == [1, 2]
    Checkpointer(str(tmp_path)).restore(state := small_state())
    assert_at_step(state, 2)


def test_impossible_arguments_are_refused(tmp_path: Path) -> None:
    for arguments in ({"every_steps": 0}, {"every_secs": -1.0}, {"keep_last": 0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            Checkpointer(str(tmp_path), **arguments)


def test_maybe_save_follows_the_policy_and_its_clock(tmp_path: Path) -> None:
    now = [0.0]
    state = small_state()
    with Checkpointer(
        str(tmp_path),
        every_steps=10,
        every_secs=60.0,
        options=SaveOptions(elapsed=lambda: now[0]),
    ) as checkpointer:
        checkpointer.restore_or_initialize(state)
        assert checkpointer.next_save_step(0) == 10
        saved = []
        for _ in range(12):
            advance(state)
            now[0] += 20.0 if state.step < 5 else 0.0
            if checkpointer.maybe_save(state) is not None:
                saved.append(state.step)
    assert saved == [3, 10]


def test_tensorflow_finds_and_reads_the_newest_checkpoint(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2, 7)
    directory = str(tmp_path / "checkpoints")
    path = tf.train.latest_checkpoint(directory)
    assert path == f"{directory}/ckpt-7"
    reader = tf.train.load_checkpoint(path)
    assert reader.get_tensor("save_counter/.ATTRIBUTES/VARIABLE_VALUE") == 7
    state = tf.train.get_checkpoint_state(directory)
    assert list(state.all_model_checkpoint_paths) == [
        f"{directory}/ckpt-{step}" for step in (1, 2, 7)
    ]
    assert len(state.all_model_checkpoint_timestamps) == 3
    plain = small_state().trackables["small"]
    tf.train.Checkpoint(small=plain).restore(path).assert_consumed()
    assert plain.counter.numpy() == 7


def test_retention_keeps_tensorflows_list_right(tmp_path: Path) -> None:
    save_steps(tmp_path, *range(1, 7), keep_last=2)
    assert steps_in(tmp_path) == [5, 6]
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(), str(tmp_path / "checkpoints"), max_to_keep=None
    )
    assert [os.path.basename(path) for path in manager.checkpoints] == [
        "ckpt-5",
        "ckpt-6",
    ]


def test_two_equal_runs_write_equal_bundles(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_steps(tmp_path / name, 3)
    readers = [
        tf.train.load_checkpoint(str(tmp_path / name / "checkpoints/ckpt-3"))
        for name in ("a", "b")
    ]
    keys = set(readers[0].get_variable_to_shape_map())
    assert keys == set(readers[1].get_variable_to_shape_map())
    for key in keys:
        np.testing.assert_array_equal(*(reader.get_tensor(key) for reader in readers))


def test_save_replaces_a_checkpoint_of_the_same_step(tmp_path: Path) -> None:
    state = small_state()
    with Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.restore_or_initialize(state)
        advance(state, 2)
        checkpointer.save(state)
        checkpointer.save(state, metrics={"bleu": 20.0})
    assert steps_in(tmp_path) == [2]
    assert Checkpointer(str(tmp_path)).latest().manifest.metrics == {"bleu": 20.0}
    assert not (tmp_path / "checkpoints" / "superseded").exists()


def test_restoring_an_earlier_step_supersedes_the_later_ones(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2, 3, keep_last=2)
    state = small_state()
    with Checkpointer(str(tmp_path), keep_last=2) as checkpointer:
        assert checkpointer.restore(state, step=2).step == 2
        assert_at_step(state, 2)
        assert steps_in(tmp_path) == [2, 3]  # Reading changes nothing.
        checkpointer.save(state).result()
    assert steps_in(tmp_path) == [2]
    aside = tmp_path / "checkpoints" / "superseded" / "ckpt-3.1"
    assert (aside / "ckpt-3.manifest.json").exists()


def test_restore_without_a_checkpoint_names_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(NoCheckpointError, match="has no checkpoint"):
        Checkpointer(str(tmp_path)).restore(small_state())
    save_steps(tmp_path, 1, 2)
    with pytest.raises(NoCheckpointError, match=r"no checkpoint of step 9.*\[1, 2\]"):
        Checkpointer(str(tmp_path)).restore(small_state(), step=9)


def test_restore_beside_a_training_changes_nothing(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2)
    directory = tmp_path / "checkpoints"
    (directory / "ckpt-3.index").write_bytes(b"being written")
    (directory / "ckpt-2.index").write_bytes(b"damaged")
    before = sorted(path.name for path in directory.iterdir())
    state = small_state()
    Checkpointer(str(tmp_path)).restore(state)
    assert_at_step(state, 1)
    assert sorted(path.name for path in directory.iterdir()) == before


def test_when_no_checkpoint_verifies_nothing_starts_afresh(tmp_path: Path) -> None:
    """A supervisor that restarts the command must not begin the run anew."""
    save_steps(tmp_path, 1, 2)
    for path in (tmp_path / "checkpoints").glob("*.index"):
        path.write_bytes(b"damaged")
    for _ in range(2):
        with pytest.raises(CheckpointCorruptError, match=r"no checkpoint in .* can be"):
            Checkpointer(str(tmp_path)).restore_or_initialize(small_state())


def test_leftovers_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    directory = tmp_path / "checkpoints"
    (directory / "ckpt-2_temp").mkdir()
    for name in (
        "ckpt-2_temp/part-00000-of-00001.data-00000-of-00001",
        "ckpt-2.data-00000-of-00001",
        "ckpt-2.index",
        "checkpoint.tmp123abc",
        ".partial-0",
    ):
        (directory / name).write_bytes(b"half")
    (directory / "notes.txt").write_bytes(b"the user's own")
    assert Checkpointer(str(tmp_path)).restore_or_initialize(small_state()).step == 1
    assert sorted(path.name for path in directory.iterdir()) == [
        "checkpoint",
        "ckpt-1.data-00000-of-00001",
        "ckpt-1.index",
        "ckpt-1.manifest.json",
        "notes.txt",
    ]


def test_checkpoints_of_another_program_are_never_removed(tmp_path: Path) -> None:
    foreign = tf.train.Checkpoint(v=tf.Variable(1.0))
    manager = tf.train.CheckpointManager(
        foreign, str(tmp_path / "checkpoints"), max_to_keep=None
    )
    manager.save()
    before = sorted(os.listdir(tmp_path / "checkpoints"))
    with pytest.raises(UsageError, match="another program"):
        Checkpointer(str(tmp_path)).restore_or_initialize(small_state())
    assert sorted(os.listdir(tmp_path / "checkpoints")) == before


def test_a_first_save_without_restore_is_refused(tmp_path: Path) -> None:
    save_steps(tmp_path, 5)
    state = small_state()
    advance(state)
    checkpointer = Checkpointer(str(tmp_path))
    with pytest.raises(UsageError, match="call restore_or_initialize"):
        checkpointer.save(state)
    assert steps_in(tmp_path) == [5]


def test_other_data_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    digest = "9f2c41" + "0" * 58
    saved = {"fingerprint": digest, "global_batch_size": 256, "seed": 1}
    state = small_state(data=FixedData(**saved))
    with Checkpointer(str(tmp_path)) as checkpointer:
        advance(state, 3)
        checkpointer.save(state)
    now = {**saved, "global_batch_size": 128}
    other = small_state(data=FixedData(**now))
    with pytest.raises(DataMismatchError) as caught:
        Checkpointer(str(tmp_path)).restore_or_initialize(other)
    assert str(caught.value) == (
        "cannot resume from step 3: the dataset is not the one it was saved with.\n"
        "  checkpoint: fingerprint 9f2c41..., global_batch_size 256, seed 1\n"
        "  now:        fingerprint 9f2c41..., global_batch_size 128, seed 1\n"
        "Use --batch-size 256, or start a new run directory."
    )
    assert (caught.value.saved, caught.value.now) == (saved, now)
    assert_at_step(other, 0)
    with pytest.raises(DataMismatchError, match="now:        no dataset"):
        Checkpointer(str(tmp_path)).restore_or_initialize(small_state())


def test_other_objects_are_refused_before_anything_is_touched(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    state = small_state(size=2000)
    small = state.trackables["small"]
    small.extra = tf.Variable(1.0)
    del small.counter
    before = values(state)
    with pytest.raises(CheckpointMismatchError) as caught:
        Checkpointer(str(tmp_path)).restore_or_initialize(state)
    suffix = ".ATTRIBUTES/VARIABLE_VALUE"
    assert caught.value.missing == [f"small/extra/{suffix}"]
    assert caught.value.unexpected == [f"small/counter/{suffix}"]
    assert caught.value.changed == [
        f"small/weights/{suffix}: checkpoint float32[1000], now float32[2000]"
    ]
    for part in ("only now", "only in the checkpoint", "different", "new run dir"):
        assert part in str(caught.value)
    for one, other in zip(before, values(state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert steps_in(tmp_path) == [1]


def test_other_dtypes_are_refused(tmp_path: Path) -> None:
    with Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.save(TrainState(v=tf.Variable(1.0)))
    other = TrainState(v=tf.Variable(1, dtype=tf.int32))
    with pytest.raises(CheckpointMismatchError, match=r"float32\[\], now int32\[\]"):
        Checkpointer(str(tmp_path)).restore_or_initialize(other)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, config={"seed": 1})
    with pytest.raises(ConfigMismatchError, match="--seed 1"):
        Checkpointer(str(tmp_path), config={"seed": 2}).restore_or_initialize(
            small_state()
        )


@pytest.mark.parametrize("extra", [{"f": object()}, {"loss": float("nan")}])
def test_extra_values_must_fit_into_json(tmp_path: Path, extra: dict[str, Any]) -> None:
    state = small_state()
    state.extra = extra
    with (
        Checkpointer(str(tmp_path)) as checkpointer,
        pytest.raises(TypeError, match=r"state\.extra must be JSON"),
    ):
        checkpointer.save(state)


def test_metrics_must_be_finite(tmp_path: Path) -> None:
    with (
        Checkpointer(str(tmp_path)) as checkpointer,
        pytest.raises(TypeError, match="'loss' is nan"),
    ):
        checkpointer.save(small_state(), metrics={"loss": float("nan")})


def test_an_uninitialized_variable_is_named(tmp_path: Path) -> None:
    variable = UninitializedVariable(shape=[2], dtype=tf.float32, name="lazy")
    with (
        Checkpointer(str(tmp_path)) as checkpointer,
        pytest.raises(StateError, match=r"lazy.*not initialized"),
    ):
        checkpointer.save(TrainState(v=variable))
