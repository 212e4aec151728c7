"""`resumable-tf tpu check`: flags that do not fit, and real compilations (slow)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from resumable_tf.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
STEPS = "helpers.tpu_steps"


def invoke(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["tpu", "check", *args])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "either --preset, or MODULE:FUNCTION"),
        (["a:b", "--preset", "base"], "either --preset, or MODULE:FUNCTION"),
        (["--preset", "huge"], "is none of tiny, small, base, big"),
        (["--preset", "base", "--topology", "v9:1"], "not of the form"),
        (["--preset", "base", "--batch-size", "-1"], "at least 1"),
        (["--preset", "base", "--batch-size", "12"], "Use a multiple of 8"),
        (["--preset", "base", "--compute-dtype", "int8"], "use float32 or bfloat16"),
        ([f"{STEPS}:make_step", "--batch-size", "12"], "Use a multiple of 8"),
        ([f"{STEPS}:make_step", "--vocab-size", "8"], "without --preset"),
        ([f"{STEPS}:make_step_of_fixed_size", "--batch-size", "8"], "has no effect"),
        ([f"{STEPS}:make_step_of_fixed_size", "--find-batch"], "has no effect"),
    ],
)
def test_flags_that_do_not_fit_end_with_2_and_advice(
    args: list[str], message: str
) -> None:
    code, output = invoke(*args)
    assert code == 2 and output.startswith("UsageError: ")
    assert message in output


def test_help_needs_no_tensorflow_and_says_what_a_step_is() -> None:
    code = (
        "import sys; from resumable_tf.cli.app import app\n"
        "try: app(['tpu', 'check', '--help'])\n"
        "except SystemExit: print('TF', 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"COLUMNS": "200", "PATH": "", "TERM": "dumb"},
        capture_output=True,
        text=True,
    )
    assert "TF False" in done.stdout, done.stderr
    words = done.stdout.replace("\u2502", " ").split()
    found = {word for word in words if word.startswith("--") and word[2:3].isalpha()}
    assert found == {
        "--batch-size",
        "--compute-dtype",
        "--environment-dir",
        "--find-batch",
        "--help",
        "--json",
        "--preset",
        "--row-length",
        "--timeout-secs",
        "--topology",
        "--vocab-size",
    }
    assert "strategy.run once" in " ".join(words)


def check(*args: str) -> tuple[int, Any]:
    """Runs the command in a process of its own; the environment is made if missing."""
    done = subprocess.run(
        [sys.executable, "-m", "resumable_tf", "tpu", "check", "--json", *args],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_a_keras_step_compiles_for_a_slice_and_its_figures_add_up() -> None:
    code, report = check(f"{STEPS}:make_step", "--topology", "v5e:2x2")
    assert code == 0 and report["compiles"]
    assert report["num_replicas"] == 4 and report["batch_size"] is None
    # Gradients of 8 * 16 + 16 + 16 + 16 + 16 * 4 + 4 parameters, and the padding of
    # their layouts is not counted.
    reduced = report["collectives"]["all-reduce"]
    assert reduced["size_bytes"] >= 4 * 244
    parameters = 244 + 2 * 16
    assert report["argument_bytes"] >= 4 * (parameters + 2 * 244)
    assert report["hbm_bytes"] < report["usable_hbm_bytes"]
    # Forward and backward of two products for the 4 rows of a replica.
    assert report["flops"] > 2 * 3 * 4 * (8 * 16 + 16 * 4) * 0.6
    assert report["lower_bounds"]["compute_secs"] > 0


@pytest.mark.slow
def test_a_step_that_does_not_fit_ends_with_1_and_the_compiler_s_words() -> None:
    name = f"{STEPS}:make_step_too_large"
    code, report = check(name, "--topology", "v5e:1x1")
    assert code == 1 and not report["compiles"]
    assert "exceed" in report["error"] and "hbm" in report["error"].lower()
    # The same step on a chip with more memory.
    code, report = check(name, "--topology", "v5p:2x2x1")
    assert code == 0
    assert report["hbm_bytes"] > 15.75 * 2**30


@pytest.mark.slow
def test_the_training_script_s_tiny_preset_compiles() -> None:
    args = ["--preset", "tiny", "--topology", "v5e:2x2", "--batch-size", "16"]
    code, report = check(*args)
    assert code == 0 and report["findings"] == []
    # Adam: variables and two moments, float32.
    assert report["argument_bytes"] > 3 * 4 * 3_000_000
