"""The training script's own decisions: what a place fills in, and who exports."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_translation.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_translation_alone", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "set_up_tensorflow", lambda: None)
    monkeypatch.setattr(module, "_set_up_logging", lambda: None)
    for name in ("TF_CONFIG", "SM_MODEL_DIR", "AZUREML_RUN_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return module


def invoke(module: ModuleType, *flags: str) -> Any:
    app = typer.Typer()
    app.command()(module.main)
    return CliRunner().invoke(app, list(flags))


@pytest.mark.parametrize(
    ("flags", "grace_secs"),
    [
        ((), 25.0),
        (("--grace-secs", "7"), 7.0),
        (("--place", "sagemaker"), 120.0),
        (("--place", "sagemaker", "--grace-secs", "7"), 7.0),
        (("--place", "slurm", "--run-dir", "r"), 25.0),
    ],
)
def test_a_place_fills_in_its_grace(
    script: ModuleType,
    flags: tuple[str, ...],
    grace_secs: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from resumable_tf.training.config import TrainConfig

    found: list[TrainConfig] = []

    def run(settings: dict[str, Any]) -> int:
        found.append(TrainConfig(**settings))
        return 75

    monkeypatch.setattr(script, "_run", run)
    assert invoke(script, *flags).exit_code == 75
    assert [config.grace_secs for config in found] == [grace_secs]


@pytest.mark.parametrize("text", ["-1", "nan"])
def test_a_grace_below_zero_is_wrong_usage(script: ModuleType, text: str) -> None:
    assert invoke(script, "--grace-secs", text).exit_code == 2


TWO = {"chief": ["a:1"], "worker": ["b:1"]}


@pytest.mark.parametrize(
    ("config", "exports"),
    [
        ({}, True),
        (
            {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}},
            True,
        ),
        ({"task": {"type": "worker", "index": 1}}, False),
        ({"cluster": TWO, "task": {"type": "chief", "index": 0}}, True),
        ({"cluster": TWO, "task": {"type": "worker", "index": 0}}, False),
        ({"cluster": TWO, "task": {"type": "evaluator", "index": 0}}, False),
    ],
)
def test_the_chief_alone_becomes_the_export(
    script: ModuleType,
    config: dict[str, Any],
    exports: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In its own place: beside a training it would find no memory left on a GPU."""
    became: list[list[str]] = []

    def become(path: str, args: list[str]) -> None:
        assert path == sys.executable
        became.append(args)
        raise SystemExit(17)

    monkeypatch.setattr(script, "_run", lambda settings: 0)
    monkeypatch.setattr(os, "execv", become)
    monkeypatch.setattr("subprocess.run", None)
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    done = invoke(script, "--place", "sagemaker", "--run-dir", "r")
    assert done.exit_code == (17 if exports else 0)
    export = str(SCRIPT.with_name("export_model.py"))
    flags = ["--run-dir", "r", "--output", "/opt/ml/model"]
    assert became == ([[sys.executable, export, *flags]] if exports else [])
