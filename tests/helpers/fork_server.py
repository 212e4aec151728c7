"""Training processes that begin with TensorFlow imported already.

    server = ForkServer()
    done = server.run(["--preset", "tiny", ...], env={}, timeout_secs=300)
    server = ForkServer("fit")          the programs of `keras_programs`

Importing takes longer than the training of a test. Each run is a fork of a process that
has imported everything and run no TensorFlow operation: a process of its own, which a
kill ends for real. `python -m helpers.fork_server PROGRAM` is the server's side: a line
of JSON on standard input asks for a fork, the answer is its exit status.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_POLL_SECS = 0.01


class ForkServer:
    """The client's side; starts the server at the first run."""

    def __init__(self, program: str = "script") -> None:
        """Keeps what to run: the training "script", or a "fit"."""
        self._program = program
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, args: list[str], *, env: dict[str, str], timeout_secs: float
    ) -> subprocess.CompletedProcess[str]:
        """Trains in a process of its own and waits for its end."""
        with tempfile.TemporaryDirectory() as scratch:
            outputs = [f"{scratch}/out", f"{scratch}/err"]
            request = {"args": args, "env": env, "outputs": outputs}
            code = self._ask({**request, "timeout_secs": timeout_secs})
            texts = [Path(path).read_text("utf-8") for path in outputs]
        if code is None:
            raise subprocess.TimeoutExpired(args, timeout_secs, *texts)
        return subprocess.CompletedProcess(args, code, *texts)

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _ask(self, request: dict[str, Any]) -> int | None:
        if self._process is None:
            path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
            self._process = subprocess.Popen(
                [sys.executable, "-m", "helpers.fork_server", self._program],
                env={**os.environ, "PYTHONPATH": path},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: int | None = json.loads(self._process.stdout.readline())
        return answer


def load(program: str) -> Callable[[], None]:
    """Imports everything; returns what a fork is to call."""
    if program == "fit":
        from helpers.keras_programs import main

        return main
    from helpers.train_and_die import load_script, train

    script = load_script()
    import resumable_tf.training.run  # noqa: F401

    return lambda: train(script)


def serve(program: str) -> None:
    """Answers requests until standard input ends."""
    work = load(program)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(work, request)
        print(json.dumps(_wait(pid, request["timeout_secs"])), flush=True)


def _wait(pid: int, timeout_secs: float) -> int | None:
    """Returns the exit code, negative for a signal; None if it had to be ended."""
    ends = time.monotonic() + timeout_secs
    while time.monotonic() < ends:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_POLL_SECS)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _become(work: Callable[[], None], request: dict[str, Any]) -> None:
    """Turns a fork into the program; never returns."""
    for descriptor, path in zip((1, 2), request["outputs"], strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["env"])
    sys.argv = ["program", *request["args"]]
    code = 1
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  printed; the exit code says it failed
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
