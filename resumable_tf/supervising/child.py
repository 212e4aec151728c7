"""A program in a process group of its own, of which nothing is left behind.

child = Child(["python", "train.py"], environment)
child.send(signal.SIGTERM)
code = child.wait(0.2)
child.clear()
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

# 1 is PR_SET_PDEATHSIG: this process gets the signal when its parent dies. The parent
# may have died before. What Python ignores would stay ignored in the program.
_FOLLOW = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGTERM)
for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(ignored, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""
_POLL_SECS = 0.02


class Child:
    """The running program.

    It has its own process group, so that Ctrl-C reaches the supervisor alone, which
    passes it on once. If the supervisor is killed, the program gets SIGTERM.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts it.

        Args:
            command: Program and arguments.
            environment: All its environment variables.

        Raises:
            FileNotFoundError: If there is no such program.
        """
        if shutil.which(command[0], path=environment.get("PATH")) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
        self._process = subprocess.Popen(
            [*_launcher(), *command],
            env=dict(environment),
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of the program; also of its process group."""
        return self._process.pid

    def wait(self, timeout_secs: float) -> int | None:
        """Returns the exit code, negative for a signal; None while it runs."""
        try:
            return self._process.wait(timeout_secs)
        except subprocess.TimeoutExpired:
            return None

    def send(self, number: int) -> None:
        """Sends a signal to the program itself; none if it has ended.

        Its own helpers don't get it: it may need them for its last save.
        """
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends the program and its helpers at once, and waits for it."""
        self._send_group(signal.SIGKILL)
        self._process.wait()

    def clear(self, *, timeout_secs: float = 5.0) -> None:
        """Ends what the program has left running, or else the program itself.

        Its helpers could hold the TPU, or ports. They get SIGTERM, then SIGKILL.

        Args:
            timeout_secs: Between the two.
        """
        ends = time.monotonic() + timeout_secs
        is_left = self._send_group(signal.SIGTERM)
        while is_left and time.monotonic() < ends:
            time.sleep(_POLL_SECS)
            self._process.poll()  # One that nobody has waited for is in its group yet.
            is_left = self._send_group(0)
        if is_left:
            self._send_group(signal.SIGKILL)
        self._process.wait()

    def _send_group(self, number: int) -> bool:
        """Sends a signal to the group; returns whether there was anyone."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def _launcher() -> list[str]:
    """Returns a command that becomes the one behind it, and follows this process.

    It has the process number of the program, since it is replaced by it. Between fork
    and exec, where else this could be done, a process with threads must not run Python.
    """
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", "-c", _FOLLOW, str(os.getpid())]
