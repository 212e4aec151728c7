"""The command `resumable-tf audit`: its exit codes, and what it prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import resumable_tf.cli.audit as command
from resumable_tf.auditing.report import AuditReport, Cause
from resumable_tf.cli.app import app

LEAK = AuditReport(
    is_exact=False,
    cause=Cause.RANDOM,
    message="rng in main() of train.py was not put back. Draw from the step",
    first_step=6,
    first_tensor="model: dense/kernel [0] (model/kernel)",
    suspects=("rng in main() of train.py", "count in main() of train.py"),
    resumed_from=(5,),
)


def invoke(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["audit", *args])
    return done.exit_code, done.output


def program_in(directory: Path, text: str) -> str:
    path = directory / "train.py"
    path.write_text(text)
    return str(path)


def test_wrong_usage_ends_with_2_and_says_what_is_wrong(tmp_path: Path) -> None:
    code, output = invoke(str(tmp_path / "missing.py"))
    assert code == 2 and "there is no program" in output
    program = program_in(tmp_path, "")
    code, output = invoke(program, "--kill-at", "20")
    assert code == 2 and "must be below --steps 20" in output
    code, output = invoke(program, "--keep", str(tmp_path))
    assert code == 2 and "is not empty" in output


def test_a_program_that_fails_ends_with_1_and_shows_its_last_words(
    tmp_path: Path,
) -> None:
    text = "import os, sys; sys.exit(f'no [data] in {sys.argv[1]} ' * 2)"
    code, output = invoke(program_in(tmp_path, text), "--", "{run_dir}/x")
    assert code == 1
    assert "not exact: the program failed" in output
    assert "no [data] in " in output and "/whole/x" in output


def test_a_leak_ends_with_1_and_is_printed_with_all_suspects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "audit_command", lambda *_, **__: LEAK)
    code, output = invoke(program_in(tmp_path, ""))
    assert code == 1
    assert output.splitlines() == [
        "not exact: seed state not covered",
        "  resumed from   step 5",
        "  first differs  step 6: model: dense/kernel [0] (model/kernel)",
        "  rng in main() of train.py was not put back. Draw from the step",
        "  also not as in the uninterrupted run:",
        "    count in main() of train.py",
    ]


def test_arguments_and_the_kills_reach_the_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def audit(argv: list[str], **arguments: object) -> AuditReport:
        seen.update(arguments, argv=argv)
        return AuditReport(
            is_exact=True, resumed_from=(5,), num_tensors=22, num_steps=15
        )

    monkeypatch.setattr(command, "audit_command", audit)
    program = program_in(tmp_path, "")
    kills = ["--kill-at", "7", "--kill-at", "11"]
    code, output = invoke(program, *kills, "--", "--run-dir", "{run_dir}")
    assert code == 0
    assert seen["argv"] == [sys.executable, program, "--run-dir", "{run_dir}"]
    assert seen["kill_at"] == [7, 11]
    line = "exact after the resume from step 5: 22 tensors compared at each of 15 steps"
    assert output.strip() == line


def test_the_package_is_a_command_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resumable_tf", "--help"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "audit" in done.stdout
