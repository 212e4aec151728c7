"""The model is the same under Keras 3 and under tf_keras, bit for bit.

Initial values, logits, loss and gradients depend on neither the process nor on which
of them a user has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.small_models import probe

TESTS = Path(__file__).parent.parent
IS_LEGACY = os.environ.get("TF_USE_LEGACY_KERAS") == "1"


def run_with_other_keras(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "TF_USE_LEGACY_KERAS": "0" if IS_LEGACY else "1",
        "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
    }
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command,
        env=environment,
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_another_process_with_the_other_keras_computes_the_same_bits() -> None:
    pytest.importorskip("tf_keras")
    ran = run_with_other_keras("helpers.small_models")
    assert ran.returncode == 0, ran.stderr
    here, there = probe(), json.loads(ran.stdout.splitlines()[-1])
    assert {here.pop("keras"), there.pop("keras")} == {"keras", "tf_keras"}
    assert here == there


@pytest.mark.slow
def test_tests_of_the_layers_pass_with_the_other_keras() -> None:
    pytest.importorskip("tf_keras")
    names = ("test_model_transformer.py", "test_model_initial_values.py")
    files = [str(TESTS / "unit" / name) for name in names]
    ran = run_with_other_keras("pytest", "-p", "no:cacheprovider", *files)
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout and "skipped" not in ran.stdout
