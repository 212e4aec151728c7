"""Wrong flags and arguments are said in a line, with exit code 2; never a traceback.

All commands in one process; what is shown of files can't act on a terminal.
"""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from resumable_tf.cli.app import app
from resumable_tf.cli.output import cell
from resumable_tf.errors import UsageError, printable, without_secrets
from resumable_tf.storage import open_storage
from resumable_tf.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
BAD_NUMBERS = ("nan", "-1", "-inf", "x", "")
COMMANDS = (
    *[[name, "NOTHING"] for name in ("ls", "inspect", "verify")],
    *[[name, "FILE"] for name in ("ls", "inspect", "verify")],
    *[[name, ""] for name in ("ls", "inspect", "verify")],
    *[[name, "nosuch://bucket/run"] for name in ("ls", "inspect", "verify")],
    *[[name, "memory://nothing-there"] for name in ("ls", "inspect", "verify")],
    ["ls"],
    ["pin", "NOTHING", "1"],
    ["pin", "NOTHING", "x"],
    ["pin", "nosuch://bucket/run", "1"],
    ["inspect", "NOTHING", "--step", "x"],
    ["audit", "NOTHING"],
    ["audit", "FILE", "--steps", "x"],
    ["audit", "FILE", "--steps", "-1"],
    ["audit", "FILE", "--kill-at", "-1"],
    ["run"],
    ["run", "--", ""],
    ["run", "--outcome", "nosuch://bucket/file", "--", "true"],
    ["run", "--outcome", "", "--", "true"],
    ["run", "--events", "NOTHING/file", "--", "true"],
    ["run", "--max-fruitless", "-1", "--", "true"],
    *[
        ["run", f"--{flag}={value}", "--", "true"]
        for value in BAD_NUMBERS
        for flag in (
            "stop-secs",
            "first-delay-secs",
            "max-delay-secs",
            "hang-factor",
            "hang-min-secs",
            "hang-max-idle-secs",
            "tpu-wait-secs",
        )
    ],
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_wrong_usage_of_a_command_ends_with_2(
    arguments: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    places = {"NOTHING": str(tmp_path / "nothing"), "FILE": str(file)}
    for name, path in places.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 2, done.output
    assert done.output and "Traceback" not in done.output


FLOATS = ("save_every_secs", "grace_secs", "dropout_rate")
INTEGERS = (
    "seed",
    "stop_step",
    "batch_size",
    "num_replicas",
    "steps_per_call",
    "save_every_steps",
    "keep_last",
    "eval_every_steps",
    "log_every_steps",
)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, float(text)) for name in FLOATS for text in ("nan", "inf", "-inf", "-1")]
    + [(name, value) for name in INTEGERS for value in (-1, 10**30)],
)
def test_a_training_refuses_numbers_that_can_not_work(name: str, value: float) -> None:
    with pytest.raises(UsageError, match="--" + name.replace("_", "-")):
        TrainConfig(run_dir="runs/demo", **{name: value})


def load_script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPTS = (
    ["train_translation", "--run-dir", "NEW", "--seed", "-1"],
    ["train_translation", "--run-dir", "NEW", "--save-every-secs", "nan"],
    ["train_translation", "--run-dir", "NEW", "--save-every-steps", "x"],
    ["train_translation", "--run-dir", "nosuch://bucket/run"],
    ["train_translation", "--run-dir", "NEW", "--data", "nosuch:file"],
    ["train_translation", "--run-dir", "NEW", "--row-length", "-1"],
    ["train_translation", "--run-dir", "NEW", "--vocab-size", "0"],
    ["export_model", "--run-dir", "NEW"],
    ["export_model", "--run-dir", "nosuch://bucket/run"],
    ["translate", "--model", "NEW"],
    ["translate", "--model", "nosuch://bucket/run"],
    ["evaluate_translation", "--model", "NEW", "--records", "NEW"],
)


@pytest.mark.parametrize("arguments", SCRIPTS, ids=" ".join)
def test_wrong_usage_of_a_script_ends_with_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load_script(arguments[0])
    if hasattr(module, "_set_up_logging"):
        monkeypatch.setattr(module, "_set_up_logging", lambda: None)
    command = typer.Typer(pretty_exceptions_enable=False)
    command.command()(module.main)
    flags = [part.replace("NEW", str(tmp_path / "new")) for part in arguments[1:]]
    done = CliRunner().invoke(command, flags)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 2, done.output


ODD = "a[/] f1[macro] \x1b[2J \u202egnp \udcff\x07 \\[x"


def test_what_comes_from_files_is_shown_escaped_and_is_no_markup() -> None:
    out = Console(file=io.StringIO(), width=200)
    out.print(cell(ODD))
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    assert "a[/] f1[macro]" in shown and "\\[x" in shown
    assert r"\x1b[2J" in shown and r"\u202egnp" in shown and r"\udcff\x07" in shown
    assert not {"\x1b", "\u202e", "\x07", "\udcff"} & set(shown)
    assert printable("Grüße, 日本語 🙂\n") == "Grüße, 日本語 🙂\n"


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The other tests need no TensorFlow.
    from helpers.small_state import advance, small_state

    from resumable_tf.checkpoint import Checkpointer

    directory = tmp_path_factory.mktemp("runs") / "odd \x1b é"
    state = small_state()
    with Checkpointer(str(directory), config={"a[/]": "\x1b[2J"}) as checkpointer:
        advance(state)
        metrics = {"a[/]": 1.0, "f1[macro]": 0.5, "x\x1b[2J\u202e\ny": 2.0}
        checkpointer.save(state, metrics=metrics).result()
    return directory


@pytest.mark.parametrize("command", ["ls", "inspect", "verify"])
def test_names_of_metrics_and_directories_are_shown_as_they_are(
    command: str, odd_run: Path
) -> None:
    done = CliRunner().invoke(app, [command, str(odd_run)])
    assert done.exit_code == 0, done.output
    assert not {"\x1b", "\u202e"} & set(done.output)
    if command == "ls":
        assert r"a[/]=1 f1[macro]=0.5 x\x1b[2J\u202e\ny=2" in done.output


@pytest.mark.parametrize(
    ("variables", "redirect", "code"),
    [
        ({"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, "", 0),
        ({}, ">/dev/full", 1),
    ],
)
def test_odd_outputs_end_without_a_traceback(
    variables: dict[str, str], redirect: str, code: int, odd_run: Path
) -> None:
    line = f'exec "$1" -m resumable_tf ls "$2" {redirect}'
    done = subprocess.run(
        ["sh", "-c", line, "sh", sys.executable, str(odd_run)],
        env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("url", ["nosuch://bucket/run", "s3x://a/b", "x::nosuch://a"])
def test_a_url_that_nobody_knows_is_wrong_usage(url: str) -> None:
    with pytest.raises(UsageError, match="fsspec knows"):
        open_storage(url)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tsv:https://me:pw@host/a.tsv", "tsv:https://***@host/a.tsv"),
        ("tsv:https://host/a?sig=x&t=y", "tsv:https://host/a?sig=***&t=***"),
        ("moses:ftp://u:p@h/a,ftp://u:p@h/b", "moses:ftp://***@h/a,ftp://***@h/b"),
        ("https://token@h/a?secret", "https://***@h/a?***"),
        ("https://u:p@ss@h/a", "https://***@h/a"),
        ("gs://bucket/run", "gs://bucket/run"),
        ("runs/a@b?c=d", "runs/a@b?c=d"),
    ],
)
def test_secrets_of_urls_are_not_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
