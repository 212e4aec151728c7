"""Runs a program whole, killed and resumed, and has the logs judged.

    audit_command(["python", "train.py", "--run-dir", "{run_dir}"],
                  kill_at=[7], steps=20, directory="/tmp/audit")

This process itself needs no TensorFlow.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from resumable_tf.auditing.log import Record, read_log
from resumable_tf.auditing.report import AuditReport, Cause
from resumable_tf.auditing.switch import Plan
from resumable_tf.auditing.verdict import Logs, judge, judge_uninterrupted
from resumable_tf.errors import UsageError

RUN_DIR = "{run_dir}"
"""What is replaced by the audit's run directory in a program's arguments."""

_NUM_LINES = 12

Progress = Callable[[str], None]
"""Is told what is going on, in a few words."""


class _ProgramFailed(Exception):
    """A process ended otherwise than planned."""


class _Audit:
    """The processes of one audit, in a directory of its own."""

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        *,
        steps: int,
        environment: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self._command = list(command)
        self._directory = directory
        self._steps = steps
        self._environment = dict(environment)
        self._progress = progress

    def run(self, name: str, run: str, kill_at: int | None = None) -> list[Record]:
        """Runs the program once and returns its log.

        Raises:
            _ProgramFailed: If it ends otherwise than planned.
        """
        self._progress(f"{name} ...")
        run_dir = self._directory / run
        log = self._directory / f"{name}.jsonl"
        plan = Plan(str(log), str(run_dir), stop_at=self._steps, kill_at=kill_at)
        command = [part.replace(RUN_DIR, str(run_dir)) for part in self._command]
        with open(self._directory / f"{name}.txt", "wb") as output:
            done = subprocess.run(
                command,
                env={**os.environ, **self._environment, **plan.to_environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        records = read_log(log)
        self._check(name, done.returncode, records, kill_at)
        return records

    def _check(
        self, name: str, code: int, records: Sequence[Record], kill_at: int | None
    ) -> None:
        expected = 0 if kill_at is None else -signal.SIGKILL
        last = records[-1].step if records else None
        if code == 0 and last is None:
            raise _ProgramFailed(
                f"{name}: the program never came to a Checkpointer or ResumeCallback"
            )
        if code == 0 and kill_at is not None:
            raise _ProgramFailed(
                f"{name}: the program ended at step {last}, before it could be killed "
                f"at step {kill_at}; use a smaller --kill-at"
            )
        if code != expected:
            text = (self._directory / f"{name}.txt").read_text(errors="replace")
            tail = "\n".join(text.strip().splitlines()[-_NUM_LINES:])
            when = "before its first step" if last is None else f"after step {last}"
            raise _ProgramFailed(
                f"{name}: the program ended with code {code} {when}:\n{tail}"
            )


def audit_command(
    command: Sequence[str],
    *,
    kill_at: Sequence[int],
    steps: int,
    directory: str | Path,
    environment: Mapping[str, str] | None = None,
    progress: Progress = lambda text: None,
) -> AuditReport:
    """Returns whether a program resumes exactly.

    Args:
        command: The program and its arguments; `{run_dir}` stands for the run
            directory, which is also in the variable RESUMABLE_TF_RUN_DIR.
        kill_at: Completed steps after which it is killed, each in a process of its own.
        steps: Completed steps to compare up to.
        directory: Where run directories, logs and output go; made if missing.
        environment: Variables to set besides.
        progress: Is told what is going on.

    Raises:
        UsageError: If the numbers can't work, or the directory is not empty.
    """
    _check_numbers(kill_at, steps)
    root = Path(directory).resolve()
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise UsageError(f"{root} is not empty; the audit needs a directory of its own")
    audit = _Audit(
        command, root, steps=steps, environment=environment or {}, progress=progress
    )
    try:
        return _run_all(audit, kill_at)
    except _ProgramFailed as failed:
        return AuditReport(is_exact=False, cause=Cause.FAILED, message=str(failed))


def _run_all(audit: _Audit, kill_at: Sequence[int]) -> AuditReport:
    whole = audit.run("whole", "whole")
    processes: list[list[Record]] = []
    for step in kill_at:
        processes.append(audit.run(f"killed-at-{step}", "killed", kill_at=step))
        unstable = judge_uninterrupted(whole, processes[0])
        if unstable is not None:
            return unstable
    processes.append(audit.run("resumed", "killed"))
    logs = Logs(whole=whole, processes=processes)
    report = judge(logs)
    if report.is_certain:
        return report
    # Is it the resume, or would a second uninterrupted run differ as well?
    again = audit.run("again", "again")
    return judge(Logs(whole=whole, processes=processes, again=again))


def _check_numbers(kill_at: Sequence[int], steps: int) -> None:
    """Refuses numbers that can't work.

    Raises:
        UsageError: If they can't.
    """
    if not kill_at or min(kill_at) < 1 or list(kill_at) != sorted(set(kill_at)):
        raise UsageError(f"--kill-at {list(kill_at)} must be positive and ascending")
    if max(kill_at) >= steps:
        raise UsageError(
            f"--kill-at {max(kill_at)} leaves nothing to compare: it must be below "
            f"--steps {steps}"
        )
