"""Finds or makes the environment that the TPU compiler runs in.

    environment = find_or_make(None)
    answer = environment.compile(request)

JAX and libtpu must have exact versions, and would drag their own into the environment
of a training. So they get one of their own, under the user's cache directory, named
after the pins. One that was not completed is made anew; two starts at once wait for
each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resumable_tf.errors import CompilerEnvironmentError
from resumable_tf.storage import LocalStorage
from resumable_tf.storage.private_directory import make_private

logger = logging.getLogger(__name__)

PINS = ("jax==0.10.2", "jaxlib==0.10.2", "libtpu==0.0.42.1")
"""The extra `tpu-check`; the worker uses private parts of this JAX."""

MIN_PYTHON = (3, 11)
DEFAULT_TIMEOUT_SECS = 3600.0
"""How long one compilation may take."""
DIRECTORY_VARIABLE = "RESUMABLE_TF_TPU_CHECK_DIR"

_WORKER = Path(__file__).with_name("compile_worker.py")
_STAMP = "complete.json"
# libtpu asks no metadata server, starts no device, and may be loaded several times.
_WORKER_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# Each of them would change the compiler's memory figures.
_DROPPED_SETTINGS = (
    "JAX_EXEC_TIME_OPTIMIZATION_EFFORT",
    "JAX_MEMORY_FITTING_EFFORT",
    "JAX_OPTIMIZATION_LEVEL",
    "LIBTPU_INIT_ARGS",
    "XLA_FLAGS",
)


@dataclass(frozen=True)
class CompilerEnvironment:
    """An interpreter that has the compiler.

    Attributes:
        python: Its path.
    """

    python: str

    def compile(
        self, program: bytes, request: Mapping[str, Any], *, timeout_secs: float
    ) -> tuple[dict[str, Any], str]:
        """Compiles a program in a process of its own.

        Args:
            program: StableHLO.
            request: What `compile_worker.main` reads beside the files.
            timeout_secs: How long it may take.

        Returns:
            The worker's answer and the optimized HLO, empty after an error.

        Raises:
            CompilerEnvironmentError: If the worker could not answer in time.
        """
        with tempfile.TemporaryDirectory(prefix="resumable-tf-tpu-check-") as name:
            paths = {
                key: str(Path(name, key))
                for key in ("program", "hlo", "request", "answer")
            }
            Path(paths["program"]).write_bytes(program)
            files = {"program": paths["program"], "hlo": paths["hlo"]}
            Path(paths["request"]).write_text(json.dumps({**request, **files}))
            # -P: the files beside the worker are no modules of that environment; one
            # of them is named like a module of Python's.
            command = [self.python, "-P", str(_WORKER)]
            command += [paths["request"], paths["answer"]]
            try:
                done = subprocess.run(
                    command,
                    env=_worker_environment(os.environ),
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=timeout_secs,
                )
            except subprocess.TimeoutExpired as error:
                raise CompilerEnvironmentError(
                    f"the TPU compiler had not finished after {timeout_secs:g} s.\n"
                    "Allow more with --timeout-secs, or check a smaller model."
                ) from error
            if not Path(paths["answer"]).exists():
                raise CompilerEnvironmentError(
                    f"the TPU compiler's process ended with {done.returncode} and "
                    f"without an answer.\n  it said: {_tail(done.stderr)}\n"
                    f"  interpreter: {self.python}\nIf its environment is damaged, "
                    "remove the directory; it is made anew."
                )
            answer = json.loads(Path(paths["answer"]).read_text())
            hlo = Path(paths["hlo"])
            return answer, hlo.read_text() if hlo.exists() else ""


def find_or_make(
    directory: str | None, *, pins: Sequence[str] = PINS
) -> CompilerEnvironment:
    """Returns an environment with exactly these pins, made now if there is none.

    This interpreter is taken if it has them, as after `pip install
    "resumable-tf[tpu-check]"`. Otherwise there is one in `directory`.

    Args:
        directory: Where environments are kept; `RESUMABLE_TF_TPU_CHECK_DIR`, or
            `resumable-tf/tpu-check` in the user's cache directory, if None.
        pins: Requirements with exact versions.

    Raises:
        CompilerEnvironmentError: If it can't be made here.
    """
    if directory is None and _has_pins(pins):
        return CompilerEnvironment(sys.executable)
    _check_python(sys.version_info[:2])
    root = Path(directory or default_directory(os.environ))
    try:
        # What is there is run: nobody else may have put it there.
        make_private(str(root.absolute()))
    except OSError as error:
        raise CompilerEnvironmentError(
            f"can't make {root} for the TPU compiler: {error}.\nName a directory that "
            f"can be written to with --environment-dir or {DIRECTORY_VARIABLE}."
        ) from error
    target = root / environment_key(pins)
    with _locked(root / f"{target.name}.lock"):
        if not (target / _STAMP).exists():
            _make(target, pins)
    return CompilerEnvironment(str(target / "bin" / "python"))


def default_directory(environment: Mapping[str, str]) -> str:
    """Returns where environments are kept, by the variables of a process."""
    own = environment.get(DIRECTORY_VARIABLE)
    if own:
        return own
    cache = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(cache, "resumable-tf", "tpu-check"))


def environment_key(pins: Sequence[str]) -> str:
    """Returns a directory name of its own for pins and interpreter."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    parts = [*sorted(pins), sys.executable, python]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return f"py{python}-{digest[:12]}"


def _check_python(version: tuple[int, int]) -> None:
    """Checks that the pins exist for this Python.

    Raises:
        CompilerEnvironmentError: If they do not.
    """
    if version < MIN_PYTHON:
        raise CompilerEnvironmentError(
            f"tpu check needs Python {_dotted(MIN_PYTHON)} or newer; this is "
            f"{_dotted(version)}.\n  reason: {PINS[0]} has no wheel for it\n"
            "Run the command from an environment of a newer Python."
        )


def _has_pins(pins: Sequence[str]) -> bool:
    """Tells whether this interpreter has exactly these versions installed."""
    for pin in pins:
        name, _, wanted = pin.partition("==")
        try:
            if importlib.metadata.version(name) != wanted:
                return False
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes out; the lock goes with the process that holds it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(target: Path, pins: Sequence[str]) -> None:
    """Makes an environment; its stamp is written when everything is there.

    Raises:
        CompilerEnvironmentError: If `venv` or pip fail.
    """
    logger.warning(
        "making the TPU compiler's environment, once: %s in %s (1.3 GB)",
        ", ".join(pins),
        target,
    )
    if target.exists():
        shutil.rmtree(target)
    try:
        venv.create(target, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompilerEnvironmentError(
            f"can't make a Python environment in {target}: {error}.\n"
            "Install the venv module of this Python (python3-venv on Debian), and see "
            "that there is room."
        ) from error
    install = [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    done = subprocess.run(
        [*install, "--no-input", *pins], capture_output=True, text=True
    )
    if done.returncode:
        raise CompilerEnvironmentError(
            f"pip could not install {', '.join(pins)}.\n  pip said: "
            f"{_tail(done.stderr)}\nSee that this machine reaches a package index (or "
            "set PIP_INDEX_URL), and run the same command again. Or make it elsewhere: "
            'pip install "resumable-tf[tpu-check]", and run the command from there.'
        )
    stamp = json.dumps({"pins": list(pins)}).encode()
    LocalStorage(str(target)).write_bytes(_STAMP, stamp)


def _worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables of the worker's process."""
    kept = {
        name: value
        for name, value in environment.items()
        if name not in _DROPPED_SETTINGS and name != "PYTHONPATH"
    }
    return {**kept, **_WORKER_SETTINGS}


def _tail(text: str) -> str:
    """Returns the last lines of a process' output."""
    return "\n    ".join(text.strip().splitlines()[-5:]) or "nothing"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
