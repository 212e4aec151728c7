"""Slurm's part of a batch job: `sbatch` for one script, and the commands that it calls.

    slurm = FakeSlurm(tmp_path)
    job = slurm.start(["--preset", "tiny"], restart_count=0)
    job.signal_batch_script()           # what --signal=B:TERM@60 does
    job.wait(), slurm.requeued

It reads the `#SBATCH` lines as sbatch(1) would and refuses unknown options. `srun` runs
the program as a task of its own; at SIGTERM it says "forcing job termination" and kills
the task, as Slurm's own does (src/srun/libsrun/srun_job.c). `scancel --signal=TERM JOB`
signals the tasks and not the script, and is silent if there are none. `squeue` says the
state.
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
_SIGNAL_STEPS = f"--signal=TERM {JOB_ID}"
_SRUN = """
import pathlib, signal, subprocess, sys, time
folder = pathlib.Path({folder!r})
task = None
def kill(number, frame):
    print("srun: forcing job termination", flush=True)
    if task is None:
        sys.exit(1)
    task.kill()
signal.signal(signal.SIGTERM, kill)
while (folder / "hold").exists():
    (folder / "held").touch()
    time.sleep(0.01)
task = subprocess.Popen(sys.argv[1:])
(folder / "task.new").write_text(str(task.pid))
(folder / "task.new").rename(folder / "task")
code = task.wait()
(folder / "task").unlink()
# As srun: 128 and the signal's number for a task that a signal ended.
sys.exit(code if code >= 0 else 128 - code)
"""


class FakeSlurm:
    """A controller with one job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "scontrol.log"
        programs = folder / "slurm"
        programs.mkdir()
        self._state = folder / "state"
        self._state.write_text("RUNNING\n")
        self._task = folder / "task"
        shell = {
            "scontrol": f'echo "$@" >>"{self._log}"',
            "squeue": f'[ "$*" = "{_ASK_STATE}" ] && cat "{self._state}"',
            "scancel": f'[ "$*" = "{_SIGNAL_STEPS}" -a -e "{self._state}" ] || exit 1\n'
            f'[ ! -e "{self._task}" ] || kill -TERM "$(cat "{self._task}")"',
        }
        texts = {name: f"#!/bin/sh\n{text}\n" for name, text in shell.items()}
        texts["srun"] = f"#!{sys.executable}\n{_SRUN.format(folder=str(folder))}"
        for name, text in texts.items():
            (programs / name).write_text(text)
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
        """Lets `squeue` and `scancel` fail."""
        self._state.unlink()

    def hold_step(self) -> None:
        """Lets `srun` wait before it starts its task."""
        (self._folder / "hold").touch()

    def release_step(self) -> None:
        """Lets it start the task."""
        (self._folder / "hold").unlink()
        while not self._task.exists():
            time.sleep(0.01)

    def end_job(self) -> None:
        """Ends the job as `scancel` and the time limit do: first its state."""
        self._state.write_text("COMPLETING\n")
        is_held = (self._folder / "hold").exists()
        # A task that has begun may be noted a moment later.
        while not is_held and not self._task.exists():
            time.sleep(0.01)
        if self._task.exists():
            os.kill(int(self._task.read_text()), signal.SIGTERM)

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
