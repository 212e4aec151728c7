"""Saving and restoring is the same on every storage, sync and async."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest
from helpers.small_state import FixedData, advance, assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer, SaveOptions
from resumable_tf.checkpoint.state_file import parse_steps
from resumable_tf.storage import open_storage


@pytest.fixture(params=["local", "memory", "gs"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "run")
    if request.param == "gs":
        request.getfixturevalue("fake_gcs")
        return "gs://bucket/runs/one"
    return f"memory://checkpoints-{uuid4().hex}/run"


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "sync"])
def test_a_stopped_run_continues_exactly(run_dir: str, asynchronous: bool) -> None:
    options = SaveOptions(asynchronous=asynchronous)
    state = small_state()
    with Checkpointer(run_dir, every_steps=2, options=options) as one:
        assert one.restore_or_initialize(state) is None
        for _ in range(5):
            advance(state)
            one.maybe_save(state)
    again = small_state()
    with Checkpointer(run_dir, every_steps=2, options=options) as two:
        info = two.restore_or_initialize(again)
        assert info is not None
        assert info.step == 4
        assert_at_step(again, 4)
        advance(again, 3)
        two.save(again).result()
    last = small_state()
    Checkpointer(run_dir).restore(last)
    assert_at_step(last, 7)


def test_the_directory_holds_what_the_design_says(run_dir: str) -> None:
    data = FixedData(fingerprint="abc", seed=1)
    state = small_state(data=data)
    with Checkpointer(
        run_dir, keep_last=2, config={"seed": 1}, options=SaveOptions(clock=lambda: 5.0)
    ) as checkpointer:
        checkpointer.restore_or_initialize(state)
        for _ in range(3):
            advance(state)
            checkpointer.save(state, metrics={"loss": 0.25})
    storage = open_storage(run_dir)
    expected = ["checkpoints/checkpoint"]
    for step in (2, 3):
        for end in ("data-00000-of-00001", "index", "manifest.json"):
            expected.append(f"checkpoints/ckpt-{step}.{end}")
    assert storage.list("") == [*expected, "run.json"]
    assert parse_steps(storage.read_bytes("checkpoints/checkpoint")) == [2, 3]
    fields = json.loads(storage.read_bytes("checkpoints/ckpt-3.manifest.json"))
    assert fields["step"] == 3
    assert fields["time"] == 5.0
    assert fields["metrics"] == {"loss": 0.25}
    assert fields["data"] == {"fingerprint": "abc", "seed": 1}
    assert fields["config"] == json.loads(storage.read_bytes("run.json"))["fingerprint"]
    assert fields["inventory"]["small/weights/.ATTRIBUTES/VARIABLE_VALUE"] == {
        "shape": [1000],
        "dtype": "float32",
    }


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "manifest"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    run_dir: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = small_state()
    with Checkpointer(run_dir) as checkpointer:
        checkpointer.restore_or_initialize(state)
        for _ in range(2):
            advance(state)
            checkpointer.save(state)
    storage = open_storage(run_dir)
    name = "checkpoints/ckpt-2.data-00000-of-00001"
    if damage == "manifest":
        name = "checkpoints/ckpt-2.manifest.json"
    content = storage.read_bytes(name)
    middle = len(content) // 2
    if damage == "remove":
        storage.delete(name)
    elif damage == "flip":
        changed = bytes([content[middle] ^ 1])
        storage.write_bytes(name, content[:middle] + changed + content[middle + 1 :])
    else:
        storage.write_bytes(name, content[:middle])
    files = {file.rsplit("/", 1)[1] for file in storage.list("") if "ckpt-2" in file}
    again = small_state()
    with Checkpointer(run_dir) as checkpointer:
        info = checkpointer.restore_or_initialize(again)
        assert info is not None
        assert info.step == 1
    assert_at_step(again, 1)
    assert "checkpoint 2 is damaged" in caplog.text
    quarantine = "checkpoints/quarantine/ckpt-2.1"
    assert storage.list(quarantine) == sorted(f"{quarantine}/{file}" for file in files)
    assert parse_steps(storage.read_bytes("checkpoints/checkpoint")) == [1]
