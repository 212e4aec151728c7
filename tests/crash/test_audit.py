"""The audit finds planted leaks by name, and raises no false alarm.

Each case runs three or four processes, which import TensorFlow.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from helpers.leaky_programs import train_with_closure_counter
from helpers.runs import train_args, write_corpus
from typer.testing import CliRunner

import resumable_tf as rtf
from resumable_tf.auditing.processes import audit_command
from resumable_tf.auditing.report import AuditReport, Cause
from resumable_tf.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "helpers" / "leaky_programs.py"
pytestmark = pytest.mark.crash
FILE = "leaky_programs.py"

# What is planted, the cause, and what must be named.
IN_SUITE = {"data_from_the_start"}
# One for each way of looking: noise between two runs, variables, fit's callbacks.
IN_CI = {"optimizer_slots"}
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
    "optimizer_slots": (Cause.VARIABLE, "variable adam/"),
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
    if name in IN_SUITE:
        return []
    return [pytest.mark.slow if name in IN_CI else pytest.mark.proof]


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
    assert report.cause is cause, report.message
    assert named in report.message


@pytest.mark.proof
def test_the_command_finds_a_loop_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = ["audit", str(PROGRAM), "--steps", "10", "--keep", str(tmp_path / "kept")]
    done = CliRunner().invoke(app, [*command, "--", "exact_loop"])
    assert done.exit_code == 0, done.output
    assert "exact after the resume from step 5: " in done.output
    assert (tmp_path / "kept" / "whole.jsonl").exists()


@pytest.mark.slow
def test_a_fit_is_found_exact(tmp_path: Path) -> None:
    report = run("exact_fit", tmp_path / "audit")
    assert report.is_exact, report
    assert (report.resumed_from, report.num_steps) == ((5,), 5)


@pytest.mark.proof
def test_a_fit_killed_and_resumed_at_an_epochs_end_is_found_exact(
    tmp_path: Path,
) -> None:
    report = audit_command(
        [sys.executable, str(PROGRAM), "exact_fit_by_epochs"],
        kill_at=[7, 14],
        steps=20,
        directory=tmp_path / "audit",
        environment={"PYTHONPATH": str(ROOT)},
    )
    assert report.is_exact, report
    assert report.resumed_from == (6, 12)


@pytest.mark.proof
def test_the_training_script_is_found_exact(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.tsv")
    script = ROOT / "scripts" / "train_translation.py"
    args = train_args(Path("{run_dir}"), corpus)
    report = audit_command(
        [sys.executable, str(script), *args],
        kill_at=[7],
        steps=14,
        directory=tmp_path / "audit",
        environment={"PYTHONPATH": str(ROOT)},
    )
    assert report.is_exact, report
    assert report.resumed_from == (4,)
    assert report.num_steps == 10


def test_a_function_is_audited_and_its_leak_named() -> None:
    report = rtf.audit(train_with_closure_counter, kill_at=7, steps=9)
    assert (report.cause, report.first_step) == (Cause.VALUE, 6)
    assert report.message.startswith(f"num_calls in closure_counter() of {FILE}")


def test_a_function_that_no_other_process_finds_is_refused() -> None:
    with pytest.raises(ValueError, match="with def at the top of a module"):
        rtf.audit(lambda run_dir: None)


@pytest.mark.slow
def test_a_program_with_a_run_directory_of_its_own_is_not_touched(
    tmp_path: Path,
) -> None:
    program = tmp_path / "train.py"
    program.write_text(
        "import resumable_tf as rtf, tensorflow as tf\n"
        "state = rtf.TrainState(v=tf.Variable(0.0))\n"
        f"rtf.Checkpointer({str(tmp_path / 'own')!r}).restore_or_initialize(state)\n"
    )
    report = audit_command(
        [sys.executable, str(program)],
        kill_at=[1],
        steps=2,
        directory=tmp_path / "audit",
        environment={"PYTHONPATH": str(ROOT)},
    )
    assert report.cause is Cause.FAILED
    assert "pass {run_dir} among its arguments" in report.message
    assert not (tmp_path / "own").exists()
