"""Audits a function instead of a program.

    report = audit(train, kill_at=7, steps=20)      # train(run_dir) in a module

The function is called in processes of its own, so it must be found there by its name.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resumable_tf.auditing.processes import RUN_DIR, audit_command
from resumable_tf.auditing.report import AuditReport
from resumable_tf.errors import UsageError

_MAIN = "__audited_main__"


def audit(
    train: Callable[[str], Any],
    *,
    kill_at: int | Sequence[int] = 7,
    steps: int = 20,
    keep: str | os.PathLike[str] | None = None,
) -> AuditReport:
    """Returns whether a training function resumes exactly after a SIGKILL.

    Runs it uninterrupted, runs it again killed and resumed, and compares every tensor
    bit for bit after each step.

    Args:
        train: Called as `train(run_dir)`; a function of a module or of the program
            itself, which must then keep its own work under
            `if __name__ == "__main__":`.
        kill_at: Completed steps after which it is killed; several for several kills.
        steps: Completed steps to compare up to.
        keep: A new directory for run directories, logs and output; None deletes them.

    Returns:
        Exact, or the first difference and its likely cause.

    Raises:
        UsageError: If the function can't be found by its name, or the numbers can't
            work.

    Example:
        >>> report = audit(train, kill_at=7, steps=20)  # doctest: +SKIP
    """
    module, file, name = _reference(train)
    command = [sys.executable, "-m", __name__, module, file, name, RUN_DIR]
    kills = [kill_at] if isinstance(kill_at, int) else list(kill_at)
    paths = [path or os.getcwd() for path in sys.path]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}

    def run(directory: str) -> AuditReport:
        return audit_command(
            command,
            kill_at=kills,
            steps=steps,
            directory=directory,
            environment=environment,
        )

    if keep is not None:
        return run(os.fspath(keep))
    with tempfile.TemporaryDirectory(prefix="resumable-tf-audit-") as directory:
        return run(directory)


def _reference(train: Callable[[str], Any]) -> tuple[str, str, str]:
    """Returns module, file and name by which another process finds a function.

    Raises:
        UsageError: If it does not.
    """
    module = str(getattr(train, "__module__", None))
    name = str(getattr(train, "__qualname__", ""))
    loaded = sys.modules.get(module)
    if not name.isidentifier() or getattr(loaded, name, None) is not train:
        raise UsageError(
            f"{train!r} can't be found by its name in another process; pass a function "
            "that is defined with def at the top of a module"
        )
    file = str(getattr(loaded, "__file__", None) or "")
    if module == "__main__" and not file:
        raise UsageError(
            f"{name}() was defined in an interactive session; put it into a file"
        )
    return module, file, name


def _call(module: str, file: str, name: str, run_dir: str) -> None:
    if module == "__main__":
        sys.path.insert(0, str(Path(file).resolve().parent))
        runpy.run_path(file, run_name=_MAIN)[name](run_dir)
    else:
        getattr(importlib.import_module(module), name)(run_dir)


if __name__ == "__main__":
    _call(*sys.argv[1:])
