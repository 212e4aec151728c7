"""Runs the real training script; kills its own process after a given step.

The kill comes from a hook of the loop, when the step is done and not yet saved:
`KILL_AFTER_STEP=17 python train_and_die.py <flags of train_translation.py>`.
With `TERM_AFTER_STEP` it gets SIGTERM instead, once. With `KILL_DELAY_SECS` the signal
comes so much later, wherever the process is then. A kill waits until the run has a
checkpoint, if it should have one: before the first, a kill shows nothing of a resume.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train_translation.py"
_MOST_WAIT_SECS = 60


def _kill_after(step: int, number: signal.Signals) -> None:
    from resumable_tf.training import hooks

    original = hooks.LogMetrics.__call__
    delay_secs = float(os.environ.get("KILL_DELAY_SECS", "0"))
    sent = []

    def send() -> None:
        os.kill(os.getpid(), number)

    def call_or_die(self, state, result):  # type: ignore[no-untyped-def]
        original(self, state, result)
        if state.step >= step and not sent:
            sent.append(number)
            if number == signal.SIGKILL:
                _wait_for_first_save(state.step)
            if delay_secs:
                threading.Timer(delay_secs, send).start()
            else:
                send()

    hooks.LogMetrics.__call__ = call_or_die  # type: ignore[method-assign]


def _wait_for_first_save(step: int) -> None:
    """Waits until the local run directory has a checkpoint, if one was due before."""
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    run_dir, every = flags.get("--run-dir", "://"), flags.get("--save-every-steps")
    if "://" in run_dir or every is None or step <= int(every):
        return
    ends = time.monotonic() + _MOST_WAIT_SECS
    while not list(Path(run_dir, "checkpoints").glob("ckpt-*.manifest.json")):
        if time.monotonic() > ends:
            raise AssertionError(f"nothing was saved in {run_dir} before step {step}")
        time.sleep(0.01)


def load_script() -> Any:
    """Returns the training script as a module, before TensorFlow is imported."""
    spec = importlib.util.spec_from_file_location("train_translation", SCRIPT)
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    # Before the hook, which imports TensorFlow: a killed process must compute with the
    # same kernels as one that is not.
    script.set_up_tensorflow()
    return script


def train(script: Any) -> None:
    """Does what the script's command line says."""
    # As a script this file stands in sys.path with its own folder only.
    sys.path.append(str(ROOT / "tests"))
    from helpers.starts import watch_loop

    watch_loop()
    for name in ("KILL", "TERM"):
        if f"{name}_AFTER_STEP" in os.environ:
            step = int(os.environ[f"{name}_AFTER_STEP"])
            _kill_after(step, signal.Signals[f"SIG{name}"])
    typer.run(script.main)


if __name__ == "__main__":
    train(load_script())
