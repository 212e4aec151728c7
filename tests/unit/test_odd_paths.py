"""Directories of any name, and `pathlib.Path` for every path argument.

TensorFlow takes the name of a checkpoint for a pattern: a run in `lr=[0.1]` could not
read what it had just written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.records import write_records
from helpers.small_state import advance, assert_at_step, small_state
from typer.testing import CliRunner

from resumable_tf.auditing import function as auditing
from resumable_tf.checkpoint import Checkpointer, FastTier, SaveOptions
from resumable_tf.cli.app import app
from resumable_tf.data.dataset import RecordDataset
from resumable_tf.data.prepare import PrepareSettings, prepare_records
from resumable_tf.errors import UsageError
from resumable_tf.serving.export_directory import find_export
from resumable_tf.serving.run_loader import load_run
from resumable_tf.serving.translator import Translator, _load
from resumable_tf.storage import open_storage
from resumable_tf.training.config import TrainConfig
from resumable_tf.training.keras.fit import fit
from resumable_tf.training.keras.one_fit import forget_completed
from resumable_tf.training.keras.resume_callback import ResumeCallback

NAMES = [
    "lr=[0.1]",
    "a[",
    "a]",
    "[!x]",
    "a*b",
    "a?b",
    "a{b,c}",
    "a\\b",
    "back\\",
    "a b ",
    "übung-日本",
    "a%20b%s",
    "a#b",
    "a\nb",
    "-a",
    "~a",
    "$HOME",
    "a:b::c",
    "'a\"",
]
NO_TEXT = "caf\udce9"
"""A name whose bytes are no UTF-8; only our own files may be in such a directory."""


@pytest.fixture(params=[*NAMES, NO_TEXT], ids=ascii)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


@pytest.fixture(params=NAMES, ids=ascii)
def odd_text(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def save_to(run_dir: Any, options: SaveOptions | None = None) -> None:
    state = small_state()
    with Checkpointer(run_dir, config={"a": 1}, options=options) as checkpointer:
        checkpointer.restore_or_initialize(state)
        advance(state, 2)
        checkpointer.save(state)


def assert_resumes_at_2(run_dir: Any, options: SaveOptions | None = None) -> None:
    state = small_state()
    with Checkpointer(run_dir, config={"a": 1}, options=options) as checkpointer:
        info = checkpointer.restore_or_initialize(state)
        assert info is not None and info.step == 2
        assert_at_step(state, 2)
        advance(state, 1)
        checkpointer.save(state)
    assert_at_step(state, 3)


def test_a_run_in_a_directory_of_any_name_is_saved_and_resumed(odd: Path) -> None:
    save_to(odd)
    assert_resumes_at_2(odd)
    assert (odd / "checkpoints/ckpt-3.index").is_file()
    assert [path.name for path in odd.parent.iterdir()] == [odd.name]


def test_a_directory_with_a_trailing_slash_is_the_same(tmp_path: Path) -> None:
    save_to(f"{tmp_path}/a[b]/")
    assert_resumes_at_2(tmp_path / "a[b]")


def test_what_only_tensorflow_writes_is_read_back_too(odd: Path) -> None:
    state = small_state()
    small = state.trackables["small"]
    small.text = tf.Variable("before")
    with Checkpointer(odd) as checkpointer:
        checkpointer.restore_or_initialize(state)
        advance(state, 2)
        small.text.assign("after")
        checkpointer.save(state)
    again = small_state()
    again.trackables["small"].text = tf.Variable("none")
    with Checkpointer(odd) as checkpointer:
        assert checkpointer.restore_or_initialize(again).step == 2
    assert again.trackables["small"].text.numpy() == b"after"


def test_a_fast_tier_in_a_directory_of_any_name_is_resumed(odd: Path) -> None:
    tier = FastTier(odd, every_steps=1)
    run_dir = odd.parent / "run"
    state = small_state()
    options = SaveOptions(fast_tier=tier)
    with Checkpointer(run_dir, every_steps=5, options=options) as checkpointer:
        checkpointer.restore_or_initialize(state)
        for _ in range(2):
            advance(state)
            checkpointer.maybe_save(state)
    again = small_state()
    with Checkpointer(run_dir, every_steps=5, options=options) as checkpointer:
        info = checkpointer.restore_or_initialize(again)
        assert info is not None and info.step == 2
    assert_at_step(again, 2)


@pytest.mark.parametrize("name", ["[b]", "a\\b"])
def test_a_scratch_directory_of_any_name_serves_an_object_store(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / name))
    url = f"memory://odd-scratch-{name.strip('[]')[0]}"
    save_to(url)
    assert_resumes_at_2(url)


def test_the_model_alone_is_read_from_a_run_of_any_name(odd: Path) -> None:
    model = tf.Module()
    model.weights = tf.Variable([1.0, 2.0])
    state = small_state()
    state = type(state)(model=model, global_random=False)
    with Checkpointer(odd, config={"a": 1}) as checkpointer:
        checkpointer.restore_or_initialize(state)
        state.step = 4
        checkpointer.save(state)
    model.weights.assign([0.0, 0.0])
    assert load_run(odd).restore_model(model).step == 4
    np.testing.assert_array_equal(model.weights, [1.0, 2.0])


@pytest.mark.parametrize("command", ["ls", "inspect", "verify", "pin"])
def test_commands_read_a_run_of_any_name(odd: Path, command: str) -> None:
    save_to(odd)
    step = {"inspect": ["--step", "2"], "pin": ["2"]}.get(command, [])
    result = CliRunner().invoke(app, [command, str(odd), *step])
    assert result.exit_code == 0, result.output


def test_records_are_read_from_a_directory_of_any_name(odd_text: Path) -> None:
    write_records(odd_text, (4, 4, 2))
    plain = odd_text.parent / "plain"
    write_records(plain, (4, 4, 2))
    found, expected = (
        next(iter(RecordDataset.open(path, global_batch_size=4, seed=1).from_step(2)))
        for path in (odd_text, plain)
    )
    np.testing.assert_array_equal(found["source"], expected["source"])


def test_a_model_is_exported_to_and_loaded_from_a_directory_of_any_name(
    odd_text: Path,
) -> None:
    module = tf.Module()
    module.value = tf.Variable(3.0)
    tf.saved_model.save(module, str(odd_text))
    assert _load(str(odd_text)).value.numpy() == 3.0


def fit_in(run_dir: Path, *, epochs: int, seed: int) -> tuple[list[float], list[Any]]:
    tf.keras.utils.set_random_seed(seed)
    layers = [tf.keras.Input((2,)), tf.keras.layers.Dense(1)]
    model = tf.keras.Sequential(layers, name="small")
    model.compile("adam", "mse")
    x = np.arange(16, dtype=np.float32).reshape(8, 2)
    arguments = {"epochs": epochs, "batch_size": 4, "shuffle": False, "verbose": 0}
    history = fit(model, x, x[:, :1], run_dir=run_dir, **arguments)
    return history.history["loss"], model.get_weights()


def test_a_fit_in_a_directory_of_any_name_goes_on(tmp_path: Path) -> None:
    odd = tmp_path / "fit [1]\\"
    expected, weights = fit_in(tmp_path / "plain", epochs=3, seed=1)
    fit_in(odd, epochs=2, seed=1)
    forget_completed()
    losses, restored = fit_in(odd, epochs=3, seed=2)
    assert losses == expected
    for one, other in zip(weights, restored, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "call",
    [
        open_storage,
        Checkpointer,
        ResumeCallback,
        find_export,
        load_run,
        Translator.load,
        FastTier,
        lambda path: TrainConfig(run_dir=path),
        lambda path: RecordDataset.open(path, global_batch_size=1, seed=1),
        lambda path: prepare_records("embedded", path, settings=PrepareSettings()),
    ],
)
def test_a_path_made_of_a_url_is_refused_with_the_url(call: Any) -> None:
    with pytest.raises(UsageError, match=r'pass the URL as a str: "gs://bucket/run"'):
        call(Path("gs://bucket/run"))


def test_bytes_are_refused() -> None:
    for call in (Checkpointer, ResumeCallback, open_storage):
        with pytest.raises(UsageError, match="give text"):
            call(b"runs/demo")


def test_settings_take_paths(tmp_path: Path) -> None:
    config = TrainConfig(run_dir=tmp_path, records=tmp_path / "r", data=tmp_path / "d")
    assert config.run_dir == os.fspath(tmp_path)
    assert config.records_dir == os.fspath(tmp_path / "r")
    assert TrainConfig(run_dir=tmp_path).records_dir == f"{tmp_path}/records"


def test_an_audit_keeps_its_files_at_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        auditing, "audit_command", lambda *_, **given: seen.append(given["directory"])
    )
    monkeypatch.setattr(auditing, "_reference", lambda _: ("module", "file", "name"))
    auditing.audit(lambda _: None, keep=tmp_path / "a[b]")
    assert seen == [f"{tmp_path}/a[b]"]
