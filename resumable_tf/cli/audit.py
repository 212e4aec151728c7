"""Tells whether a program of the user's own resumes exactly.

resumable-tf audit train.py --kill-at 7 --steps 20 -- --run-dir {run_dir}
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from resumable_tf.auditing.processes import audit_command
from resumable_tf.auditing.report import AuditReport
from resumable_tf.errors import EXIT_FAILED, EXIT_FINISHED, EXIT_USAGE, UsageError

_PREFIX = "resumable-tf-audit-"


def audit(
    program: Annotated[Path, typer.Argument(help="The Python program.")],
    args: Annotated[
        list[str] | None,
        typer.Argument(help="Its arguments, behind --; {run_dir} is replaced."),
    ] = None,
    kill_at: Annotated[
        list[int] | None,
        typer.Option(help="Steps after which to kill it; again for more. [default: 7]"),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps to compare up to.")] = 20,
    keep: Annotated[
        Path | None,
        typer.Option(help="New directory for runs, logs, output. [default: deleted]"),
    ] = None,
) -> None:
    """Runs a program whole, then killed and resumed, and compares every tensor.

    The run directory is in {run_dir} among ARGS and in RESUMABLE_TF_RUN_DIR. Exit
    codes: 0 exact, 1 not, 2 wrong usage.
    """
    sys.exit(_run(program, args or [], kill_at or [7], steps, keep))


def _run(
    program: Path, args: list[str], kill_at: list[int], steps: int, keep: Path | None
) -> int:
    """Audits, prints the report and returns the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    if not program.is_file():
        console.print(f"UsageError: there is no program {program}", markup=False)
        return EXIT_USAGE
    command = [sys.executable, str(program), *args]

    def run(directory: Path) -> AuditReport:
        with console.status("audit") as status:
            return audit_command(
                command,
                kill_at=kill_at,
                steps=steps,
                directory=directory,
                progress=status.update,
            )

    try:
        if keep is not None:
            report = run(keep)
        else:
            with tempfile.TemporaryDirectory(prefix=_PREFIX) as directory:
                report = run(Path(directory))
    except UsageError as error:
        console.print(f"UsageError: {error}", markup=False)
        return EXIT_USAGE
    _show(console, report)
    return EXIT_FINISHED if report.is_exact else EXIT_FAILED


def _show(console: Console, report: AuditReport) -> None:
    """Prints a report."""
    resumed = ", ".join(map(str, report.resumed_from))
    if report.is_exact:
        console.print(
            f"[bold green]exact[/] after the resume from step {resumed}: "
            f"{report.num_tensors} tensors compared at each of {report.num_steps} steps"
        )
        return
    console.print(f"[bold red]not exact[/]: {report.cause and report.cause.value}")
    if resumed:
        console.print(f"  resumed from   step {resumed}")
    if report.first_step is not None:
        console.print(f"  first differs  step {report.first_step}: ", end="")
        console.print(report.first_tensor, markup=False)
    console.print(f"  {report.message}", markup=False)
    if len(report.suspects) > 1:
        console.print("  also not as in the uninterrupted run:")
        for name in report.suspects[1:]:
            console.print(f"    {name}", markup=False)
