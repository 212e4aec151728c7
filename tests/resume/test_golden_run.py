"""A run directory that earlier code wrote: today's lists, verifies and continues it.

Guards against a change of the format that nobody noticed: every other test reads what
the same code has written. `make golden-run` writes it anew.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers.golden_run import (
    CONTINUED,
    LAST_STEP,
    METRICS,
    RUN,
    SAVED_STEPS,
    checkpointer,
    golden_state,
    train,
    values,
)
from typer.testing import CliRunner

import resumable_tf as rtf
from resumable_tf.cli.app import app

_MOST_BYTES = 20_000


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def test_it_is_listed_and_verified(run_dir: Path) -> None:
    listed = CliRunner().invoke(app, ["ls", str(run_dir)])
    assert listed.exit_code == 0, listed.output
    for step in SAVED_STEPS:
        assert re.search(rf"^\s*{step} +0 +{step} ", listed.output, flags=re.M)
    verified = CliRunner().invoke(app, ["verify", str(run_dir)])
    assert verified.exit_code == 0, verified.output
    for step in SAVED_STEPS:
        assert f"step {step}: good, 2 files" in verified.output
    infos = rtf.Checkpointer(str(run_dir)).checkpoints()
    assert [info.step for info in infos] == list(SAVED_STEPS)
    assert [info.manifest.metrics for info in infos] == [METRICS] * len(SAVED_STEPS)


def test_today_it_is_continued_to_the_values_of_then(run_dir: Path) -> None:
    state = golden_state(fill=7.0)
    with checkpointer(run_dir) as saver:
        info = saver.restore_or_initialize(state)
        assert info is not None and state.step == SAVED_STEPS[-1]
        train(state, saver, LAST_STEP)
        saver.save(state)
    assert values(state) == json.loads(CONTINUED.read_text("utf-8"))
    again = golden_state(fill=7.0)
    assert checkpointer(run_dir).restore(again).step == LAST_STEP
    assert values(again) == values(state)


def test_the_older_checkpoint_leads_there_too(run_dir: Path) -> None:
    state = golden_state(fill=7.0)
    with checkpointer(run_dir) as saver:
        assert saver.restore(state, SAVED_STEPS[0]).step == state.step
        train(state, saver, LAST_STEP)
    assert values(state) == json.loads(CONTINUED.read_text("utf-8"))


def test_tensorflow_alone_restores_it(run_dir: Path) -> None:
    path = tf.train.latest_checkpoint(str(run_dir / "checkpoints"))
    assert Path(path).name == f"ckpt-{SAVED_STEPS[-1]}"
    net = golden_state(fill=7.0).trackables["net"]
    tf.train.Checkpoint(net=net).restore(path).assert_existing_objects_matched()
    expected = golden_state(fill=7.0)
    rtf.Checkpointer(str(run_dir)).restore(expected)
    ours = expected.trackables["net"]
    for one, other in zip(net.variables, ours.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_other_settings_are_refused(run_dir: Path) -> None:
    other = rtf.Checkpointer(str(run_dir), config={"seed": 4, "batch_size": 4})
    with pytest.raises(rtf.ConfigMismatchError, match=r"seed: run.json 3, now 4"):
        other.restore_or_initialize(golden_state())


def test_it_is_small_and_names_no_place() -> None:
    files = [path for path in RUN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < _MOST_BYTES
    for path in files:
        assert not re.search(rb"/(home|root|tmp|work|Users)/", path.read_bytes())
