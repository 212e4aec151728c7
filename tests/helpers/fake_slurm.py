"""Slurm's part of a batch job: `sbatch` for one script, with `srun` and `scontrol`.

    slurm = FakeSlurm(tmp_path)
    job = slurm.start(["--preset", "tiny"], restart_count=0)
    job.signal_batch_script()           # what --signal=B:TERM@60 does
    job.wait(), slurm.requeued

It reads the `#SBATCH` lines as sbatch(1) would and refuses unknown options. `srun` runs
the program as a task of its own and passes SIGTERM on to it. `squeue` says the state.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "slurm_job.sh"
# slurm.schedmd.com/sbatch.html; what the script uses, and what its form must be.
_OPTIONS = {
    "--job-name": r"[\w-]+",
    "--ntasks": r"[1-9]\d*",
    "--time": r"(\d+-)?\d\d:\d\d:\d\d",
    "--signal": r"(R?B?:)?[A-Z0-9]+@\d+",
    "--requeue": r"",
    "--open-mode": r"append|truncate",
}
JOB_ID = "4711"
_ASK_STATE = f"--noheader --jobs={JOB_ID} --format=%T"


class FakeSlurm:
    """A controller with one job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "scontrol.log"
        programs = folder / "slurm"
        programs.mkdir()
        # A task is another process than srun, which passes signals on.
        task = "import signal, subprocess, sys\n"
        task += "task = subprocess.Popen(sys.argv[1:])\n"
        task += "signal.signal(signal.SIGTERM, lambda n, _: task.send_signal(n))\n"
        # As srun: 128 and the signal's number for a task that a signal ended.
        task += "code = task.wait()\n"
        task += "sys.exit(code if code >= 0 else 128 - code)\n"
        (programs / "srun").write_text(f"#!{sys.executable}\n{task}")
        (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >>"{self._log}"\n')
        self._state = folder / "state"
        self._state.write_text("RUNNING\n")
        (programs / "squeue").write_text(
            f'#!/bin/sh\n[ "$*" = "{_ASK_STATE}" ] && cat "{self._state}"\n'
        )
        for name in ("srun", "scontrol", "squeue"):
            (programs / name).chmod(0o755)
        (folder / "scripts").symlink_to(ROOT / "scripts")
        self.options = _options(SCRIPT.read_text("utf-8"))
        path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        self._env = {
            **os.environ,
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": str(ROOT),
            "SLURM_JOB_ID": JOB_ID,
            "SLURM_JOB_NAME": self.options["--job-name"],
            "SLURM_SUBMIT_DIR": str(folder),
        }

    def replace_python(self, text: str) -> None:
        """Puts another program in the place of Python."""
        program = self._folder / "slurm" / "python"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)

    def lose_controller(self) -> None:
        """Lets `squeue` fail."""
        self._state.unlink()

    def end_job(self) -> None:
        """Does to the job's state what `scancel` does, before any signal is sent."""
        self._state.write_text("COMPLETING\n")

    @property
    def run_dir(self) -> Path:
        return self._folder / "runs" / self.options["--job-name"]

    @property
    def requeued(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    def start(self, args: list[str], *, restart_count: int) -> Job:
        """Starts the batch script, as for the first time and after each requeue."""
        return Job(
            subprocess.Popen(
                ["bash", str(SCRIPT), *args],
                cwd=self._folder,
                env={**self._env, "SLURM_RESTART_COUNT": str(restart_count)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )


class Job:
    """A running batch script."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def wait_for(self, folder: Path, pattern: str) -> None:
        """Waits until the job has made a file of such a name."""
        while not list(folder.glob(pattern)):
            if self._process.poll() is not None:
                raise AssertionError(f"the job has ended without {folder / pattern}")
            time.sleep(0.01)

    def signal_batch_script(self) -> None:
        """Sends SIGTERM to the script alone: the B of --signal=B:TERM@60."""
        self._process.send_signal(signal.SIGTERM)

    def read_line(self) -> str:
        """Returns the next line that it prints, empty after the last."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def wait(self) -> tuple[int, str]:
        """Returns exit code and output."""
        output, _ = self._process.communicate(timeout=240)
        return self._process.returncode, output


def _options(script: str) -> dict[str, str]:
    found = {}
    for line in re.findall(r"^#SBATCH (.*)$", script, flags=re.M):
        name, _, value = line.partition("=")
        assert re.fullmatch(_OPTIONS[name], value), line
        found[name] = value
    return found
