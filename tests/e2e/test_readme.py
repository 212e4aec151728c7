"""Every command and snippet of the README does what it says.

`make test` is left out: it would run itself.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.saved_runs import steps_in

import resumable_tf as rtf
from resumable_tf.training.keras.one_fit import forget_completed

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SUPERVISOR_PAGE = (ROOT / "docs" / "supervisor.md").read_text(encoding="utf-8")
FORMAT_PAGE = (ROOT / "docs" / "checkpoint_format.md").read_text(encoding="utf-8")


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.S | re.M)


def _shell(command: str, *, with_errors: bool = False, **variables: str) -> str:
    """Runs a command of the README with this Python first on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True,
        cwd=ROOT,
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=570,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + (done.stderr if with_errors else "")


class _Task:
    """A small Keras model with dropout, and a custom step, for the snippets."""

    sigterm_in_step = 0

    def __init__(self, *, shift: float = 0.0) -> None:
        """Builds it; with a `shift` all initial values are others.

        A start that should continue begins with others: if it started over, its end
        would be another too.
        """
        tf.keras.utils.set_random_seed(3)
        rows = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
        dataset = tf.data.Dataset.from_tensor_slices((rows, rows[:, :1]))
        self.dataset = dataset.shuffle(40).batch(4).prefetch(2)
        self.model = tf.keras.Sequential(
            [
                tf.keras.layers.Input((3,)),
                tf.keras.layers.Dense(8, activation="relu"),
                tf.keras.layers.Dropout(0.5),
                tf.keras.layers.Dense(1),
            ]
        )
        for variable in self.model.trainable_variables:
            variable.assign_add(tf.fill(variable.shape, shift))
        self.model.compile("adam", "mse")
        self.optimizer = self.model.optimizer

    def train_step(self, batch: Any) -> None:
        self.sigterm_in_step -= 1
        if self.sigterm_in_step == 0:
            signal.raise_signal(signal.SIGTERM)
        inputs, targets = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.model(inputs, training=True) - targets) ** 2)
        variables = self.model.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def run_snippet(
        self, index: int, run_dir: Path, stop_step: int, *, page: str = README
    ) -> list[Any]:
        names = {
            "model": self.model,
            "optimizer": self.optimizer,
            "dataset": self.dataset,
            "train_step": self.train_step,
            "run_dir": str(run_dir),
            "stop_step": stop_step,
            "rtf": rtf,
        }
        snippet = _blocks(page, "python")[index]
        snippet = snippet.replace("runs/fit", str(run_dir))
        snippet = snippet.replace("/dev/shm/run", f"{run_dir}-fast")
        exec(compile(snippet, "README.md", "exec"), names)
        self.names = names
        return [variable.numpy() for variable in self.model.variables]


def test_the_loop_of_the_readme_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = _Task().run_snippet(1, tmp_path / "whole", 37)
    for stop_step in (10, 20, 30):  # Multiples of every_steps: all is saved.
        task = _Task(shift=float(stop_step > 10))
        task.run_snippet(1, tmp_path / "pieces", stop_step)
    pieces = _Task(shift=1.0).run_snippet(1, tmp_path / "pieces", 37)
    for one, other in zip(pieces, whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_guarded_loop_trains_as_the_one_without_and_stops_when_asked(
    tmp_path: Path,
) -> None:
    plain = _Task().run_snippet(1, tmp_path / "plain", 20)
    stopped = _Task()
    stopped.sigterm_in_step = 7
    with pytest.raises(rtf.Preempted, match="saved step 7 and stopped"):
        stopped.run_snippet(0, tmp_path / "run", 20, page=SUPERVISOR_PAGE)
    guarded = _Task(shift=1.0).run_snippet(
        0, tmp_path / "run", 20, page=SUPERVISOR_PAGE
    )
    for one, other in zip(plain, guarded, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_fast_tier_of_the_readme_is_saved_to_between_durable_saves(
    tmp_path: Path,
) -> None:
    task = _Task()
    task.run_snippet(2, tmp_path / "run", 0)
    state = rtf.TrainState(model=task.model, optimizer=task.optimizer)
    with task.names["checkpointer"] as checkpointer:
        for _ in range(60):
            task.train_step(next(iter(task.dataset)))
            state.step += 1
            checkpointer.maybe_save(state)
    assert [info.step for info in checkpointer.checkpoints()] == [50]
    assert steps_in(f"{tmp_path / 'run'}-fast") == [50]
    assert steps_in(tmp_path / "run") == []


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
def test_the_fit_of_the_readme_trains_once_and_then_is_finished(tmp_path: Path) -> None:
    """That it continues after a kill is what test_fit_resume.py is about."""
    first = _Task().run_snippet(0, tmp_path / "run", 0)
    checkpoints = rtf.Checkpointer(str(tmp_path / "run")).checkpoints()
    assert [info.step for info in checkpoints] == [100]
    forget_completed()
    again = _Task(shift=1.0).run_snippet(0, tmp_path / "run", 0)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.e2e
@pytest.mark.slow
def test_the_commands_train_export_translate_and_evaluate(tmp_path: Path) -> None:
    block, supervised, _ = _blocks(README, "bash")
    commands = [
        line.replace("runs/", f"{shlex.quote(str(tmp_path))}/")
        for line in [*block.splitlines(), supervised.strip()]
    ]
    train, export, translate, evaluate, ls, inspect, verify, supervise = commands
    _shell(train)
    assert "times as large" in _shell(export)
    assert len(_shell(translate).splitlines()) == 1
    assert re.search(r"^BLEU \d+\.\d+ ", _shell(evaluate), flags=re.M)
    assert re.search(r"^\s*20 +0 +20 ", _shell(ls), flags=re.M)
    assert "model/decoder_norm" in _shell(inspect)
    assert re.search(r"^step 20: good, 2 files", _shell(verify), flags=re.M)
    assert "resumed from step 20" in _shell(supervise, with_errors=True)
    assert re.search(r"^\s*24 +0 +24 ", _shell(ls), flags=re.M)
    (snippet,) = _blocks(FORMAT_PAGE, "python")
    assert "runs/demo/checkpoints" in snippet
    local = snippet.replace("runs/", f"{tmp_path}/")
    assert "model/decoder_norm" in _shell(f"python -c {shlex.quote(local)}")


@pytest.mark.e2e
@pytest.mark.slow
def test_the_audit_of_the_readme_finds_its_program_exact() -> None:
    *_, command = _blocks(README, "bash")
    line = re.search(r"^    (exact after .*)$", README, flags=re.M)
    assert line is not None
    assert line.group(1) in _shell(command.strip())


@pytest.mark.e2e
@pytest.mark.slow
def test_make_train_goes_from_the_corpus_to_translations_and_continues(
    tmp_path: Path,
) -> None:
    assert '    make train ARGS="--preset small --stop-step 2000"' in README
    make = (
        f"make train VENV={shlex.quote(sys.prefix)} RUN_DIR={tmp_path}/run "
        'EVAL_ARGS="--limit 20 --show 2"'
    )
    first = _shell(f'{make} ARGS="--stop-step 20"')
    assert "exported step 20" in first
    assert re.search(r"^BLEU \d", first, flags=re.M)
    assert re.search(r"^chrF \d", first, flags=re.M)
    assert first.count("ours       ") == 2
    again = _shell(f'{make} ARGS="--stop-step 24"', with_errors=True)
    assert "resumed from step 20" in again
    assert "exported step 24" in again


def test_the_small_loop_of_the_docs_can_be_started_again_after_its_end(
    tmp_path: Path,
) -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "docs/small_loop.py", "--run-dir", str(tmp_path / "run")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert "loss" in outputs[0] and "loss" not in outputs[1]
    assert all(text.endswith("finished at step 200\n") for text in outputs)
