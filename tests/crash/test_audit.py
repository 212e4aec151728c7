"""The audit finds planted leaks by name, and raises no false alarm.

Each case runs three or four processes, which import TensorFlow.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from helpers.leaky_programs import exact_loop  # noqa: F401
from helpers.runs import train_args, write_corpus

from resumable_tf.auditing.processes import audit_command
from resumable_tf.auditing.report import AuditReport, Cause

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "helpers" / "leaky_programs.py"
pytestmark = pytest.mark.crash
FILE = "leaky_programs.py"

# What is planted, the cause, and what must be named; the rest is slow.
IN_SUITE = {"closure_counter", "data_from_the_start"}
LEAKS = {
    "dropout_seed": (Cause.RANDOM, f"noise in dropout_seed() of {FILE}"),
    "shuffle_without_seed": (Cause.NOT_DETERMINISTIC, "they read other batches"),
    "numpy_generator": (Cause.RANDOM, f"augment in numpy_generator() of {FILE}"),
    "closure_counter": (Cause.VALUE, f"num_calls in closure_counter() of {FILE}"),
    "numpy_global": (Cause.RANDOM, "the global generator np.random"),
    "python_global": (Cause.RANDOM, "the global generator of Python's random"),
    "tensorflow_global": (Cause.RANDOM, "the global generator tf.random"),
    "metric_that_steers": (Cause.VARIABLE, "mean_loss"),
    "metric_beside": (Cause.VARIABLE, "mean_loss"),
    "optimizer_slots": (Cause.VARIABLE, "adam/"),
    "batch_norm_statistics": (Cause.VARIABLE, "norm/moving"),
    "epoch_counter": (Cause.VALUE, f"COUNTERS of {FILE}"),
    "saved_before_counting": (Cause.OFF_BY_ONE, "trained step 5 once more"),
    "batch_left_out": (Cause.OFF_BY_ONE, "that of place 6, and 5 comes next"),
    "data_from_the_start": (Cause.DATA, "that of place 0 instead of 5"),
    "shadow_weights": (Cause.VARIABLE, f"shadow in shadow_weights() of {FILE}"),
    "gradient_buffer": (Cause.VARIABLE, f"pending in gradient_buffer() of {FILE}"),
    "learning_rate": (Cause.VALUE, f"Trainer.rate of {FILE}"),
    "loss_scale": (Cause.VARIABLE, f"scale in loss_scale() of {FILE}"),
    "clock": (Cause.NOT_DETERMINISTIC, "leave clocks out"),
    "fit_counter": (Cause.VALUE, f"num_batches in fit_counter() of {FILE}"),
    "fit_refused": (Cause.FAILED, "KeepsAFile.handle changed during training"),
}


def marked(name: str) -> list[pytest.MarkDecorator]:
    return [] if name in IN_SUITE else [pytest.mark.slow]


def run(name: str, directory: Path, *, steps: int = 10) -> AuditReport:
    return audit_command(
        [sys.executable, str(PROGRAM), name],
        kill_at=[7],
        steps=steps,
        directory=directory,
        environment={"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marked(name)) for name in LEAKS]
)
def test_a_planted_leak_is_named(name: str, tmp_path: Path) -> None:
    cause, named = LEAKS[name]
    report = run(name, tmp_path / "audit")
    assert not report.is_exact
    assert (report.cause, named in report.message) == (cause, True), report
