"""Two replicas resume bit for bit, with Keras 3, tf_keras and its old optimizers.

Guards against the loss of single replicas' values: BatchNormalization statistics and
metrics differ between replicas, and TensorFlow saves one value for all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("legacy", "flags"),
    [("0", []), ("1", []), ("1", ["--legacy-optimizer"])],
    ids=["keras3", "tf_keras", "tf_keras-legacy-optimizer"],
)
def test_two_replicas_resume_exactly_and_one_takes_the_combined_values(
    tmp_path: Path, legacy: str, flags: list[str]
) -> None:
    environment = {
        **os.environ,
        "TF_USE_LEGACY_KERAS": legacy,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "helpers.replica_check", str(tmp_path / "run"), *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("exact")
    assert "was saved on 2 replicas and is restored on 1" in done.stderr
