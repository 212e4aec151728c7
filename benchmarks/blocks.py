"""Alternating timed blocks in worker processes of their own.

    ours = Worker("ours", [sys.executable, "our_training.py", ...])
    ours.run(20)                    # {"secs": ..., "tokens": ..., "loss": ...}

A worker stands still (SIGSTOP) while the other one computes, so that neither its
threads nor its read-ahead disturb it. Needs the standard library only, so that a
worker may run on another interpreter.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# What `resumable_tf.training.allocator` sets for our training: glibc keeps freed memory
# instead of returning and zeroing it at every step.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


class WorkerError(RuntimeError):
    """A worker could not start or ended early."""


class Worker:
    """A process that trains blocks of steps on request."""

    def __init__(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str]
    ) -> None:
        """Starts it and waits until it is ready.

        Raises:
            WorkerError: If it ends before it is ready; it has printed why.
        """
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.about = self._read()
        self._pause()

    def run(self, num_steps: int) -> dict[str, Any]:
        """Trains `num_steps` steps and returns what the worker measured."""
        self._process.send_signal(signal.SIGCONT)
        self._write({"num_steps": num_steps})
        result = self._read()
        self._pause()
        return result

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            if self._process.stdin:
                self._process.stdin.close()
            self._process.wait(timeout=60)

    def _pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def _write(self, message: Mapping[str, Any]) -> None:
        if self._process.stdin is None:
            raise WorkerError(f"{self.name} has no standard input")
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        """Returns the next message; other lines of its output are skipped.

        Raises:
            WorkerError: If the process ended.
        """
        for line in self._process.stdout or ():
            if line.startswith("{"):
                message: dict[str, Any] = json.loads(line)
                return message
        code = self._process.wait()
        raise WorkerError(f"{self.name} ended with exit code {code}")


def serve(about: Mapping[str, Any], run: Callable[[int], Mapping[str, Any]]) -> None:
    """Answers requests from standard input until it is closed."""
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line)["num_steps"])), flush=True)


def limit_to_cores(num_cores: int) -> None:
    """Binds this process to its first `num_cores` cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:num_cores])


def peak_memory_mb() -> float:
    """Returns the largest resident size so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
