"""A program in a process group of its own, of which nothing is left behind.

child = Child(["python", "train.py"], environment)
child.send(signal.SIGTERM)
code = child.wait(0.2)
child.send_all(signal.SIGTERM)
while child.is_left():
    ...
child.kill()
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from resumable_tf.supervising.heartbeat import DUMP_SIGNAL

# 1 is PR_SET_PDEATHSIG: this process gets the signal when its parent dies. The parent
# may have died before. What Python ignores would stay ignored in the program.
_FOLLOW = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGTERM)
for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(ignored, signal.SIG_DFL)
report = int(sys.argv[2])
os.set_inheritable(report, False)
try:
    os.execvp(sys.argv[3], sys.argv[3:])
except OSError as error:
    os.write(report, str(error.errno).encode())
    os._exit(127)
"""


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
            OSError: If it can't be executed: there is no such program, no permission,
                no interpreter, or it is neither a binary nor begins with `#!`.
        """
        if shutil.which(command[0], path=environment.get("PATH")) is None:
            number = errno.EACCES if os.path.exists(command[0]) else errno.ENOENT
            raise OSError(number, os.strerror(number), command[0])
        report, end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*_launcher(end), *command],
                env=dict(environment),
                start_new_session=True,
                pass_fds=[end],
            )
        except OSError:
            os.close(report)
            raise
        finally:
            os.close(end)
        with os.fdopen(report, "rb") as file:
            # Closed without a word by the program's execution.
            failed = file.read()
        if failed:
            self._process.wait()
            raise OSError(int(failed), _why(int(failed), command[0]), command[0])

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

    def send(self, number: int, *, training: int | None = None) -> None:
        """Sends a signal to the program, and to the training that it has started.

        Its helpers don't get it: it may need them for its last save.

        Args:
            number: The signal.
            training: The process that has told of steps; a shell in front of it may
                not pass a signal on. Ignored if it is not of the program's group.
        """
        if self._process.poll() is None:
            self._process.send_signal(number)
        if training is not None and training != self.pid and self.has(training):
            os.kill(training, number)

    def send_all(self, number: int) -> bool:
        """Sends a signal to the whole group; returns whether there was anyone."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def dump(self, training: int) -> None:
        """Makes the training write its stacks; it would end a shell in front of it."""
        if self.has(training):
            os.kill(training, DUMP_SIGNAL)

    def has(self, pid: int) -> bool:
        """Returns whether a process is one of the group, and alive."""
        try:
            return os.getpgid(pid) == self.pid
        except ProcessLookupError:
            return False

    def is_left(self) -> bool:
        """Returns whether anyone of the group is left, those not counted that ended."""
        self._process.poll()  # One that nobody has waited for is in its group yet.
        return self.send_all(0) and _has_living(self.pid)

    def kill(self) -> None:
        """Ends the program and its helpers at once, and waits for it."""
        self.send_all(signal.SIGKILL)
        self._process.wait()


def _has_living(group: int) -> bool:
    """Returns whether a group has more than processes that nobody has waited for.

    In a container they may stay for ever.
    """
    if sys.platform != "linux":
        return True
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name before, in brackets, may hold anything.
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] not in (b"Z", b"X"):
            return True
    return False


def _why(number: int, program: str) -> str:
    """Returns what an error of exec means, and how to mend it."""
    text = os.strerror(number)
    if number == errno.ENOEXEC:
        return (
            f"{text}: it is no binary and does not begin with #!; name its interpreter"
        )
    path = shutil.which(program)
    if number == errno.ENOENT and path is not None:
        with open(path, "rb") as file:
            line = file.readline(256)
        if line.endswith(b"\r\n"):
            return f"its first line ends with CR LF: {line!r}; convert it to LF"
        return f"its interpreter is not there: {line.rstrip()!r}"
    return text


def _launcher(report: int) -> list[str]:
    """Returns a command that becomes the one behind it, and follows this process.

    It has the process number of the program, since it is replaced by it. Between fork
    and exec, where else this could be done, a process with threads must not run Python.

    Args:
        report: Descriptor that gets the number of the error if it can't become it.
    """
    if sys.platform != "linux":
        return []
    follow = [sys.executable, "-I", "-S", "-c", _FOLLOW]
    return [*follow, str(os.getpid()), str(report)]
