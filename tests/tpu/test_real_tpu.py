"""On a real TPU: initialise, train, be killed, resume exactly, export.

    python -m pytest -m tpu tests/tpu                                 # one host
    RESUMABLE_TF_TPU_DIR=gs://BUCKET/DIR TPU_NAME=grpc://HOST:8470,... \
        python -m pytest -m tpu tests/tpu                             # a pod, worker 0

Every training is a process of its own, as only one process can have a TPU.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from helpers.runs import DRIVER, ROOT, train_args, write_corpus

from resumable_tf.errors import DeviceError
from resumable_tf.tpu.machine import TpuSettings, check_machine, find_machine
from resumable_tf.tpu.machine import settings_from as tpu_settings

pytestmark = [pytest.mark.tpu, pytest.mark.timeout(3600)]

_NUM_STEPS = 50
_ROWS = 256  # Divisible by the replicas of every slice up to 256 chips.


@pytest.fixture(scope="module", autouse=True)
def settings() -> Iterator[TpuSettings]:
    """Which TPU; skips all of it, with the reason, where there is none."""
    found = tpu_settings(None)
    try:
        check_machine(found, find_machine())
    except DeviceError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        # This process only reads; the TPU is for those it starts.
        patch.setenv("TPU_LOAD_LIBRARY", "0")
        yield found


@pytest.fixture
def place(settings: TpuSettings, tmp_path: Path) -> str:
    """A directory that the client and all hosts can reach."""
    chosen = os.environ.get("RESUMABLE_TF_TPU_DIR")
    if chosen is None and not settings.is_local:
        pytest.skip("a pod needs RESUMABLE_TF_TPU_DIR=gs://BUCKET/DIR")
    return str(tmp_path) if chosen is None else f"{chosen}/{tmp_path.name}"


def run(settings: TpuSettings, *command: str, **env: str) -> tuple[int, str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    if settings.is_local:
        del environ["TPU_LOAD_LIBRARY"]
    done = subprocess.run(
        [sys.executable, *command],
        env={**environ, **env},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    return done.returncode, done.stdout


def train(
    settings: TpuSettings, corpus: Path, place: str, name: str, **flags: object
) -> list[str]:
    """Returns the command of a training."""
    args = train_args(
        f"{place}/{name}",
        corpus,
        **{
            "strategy": "tpu",
            "tpu": settings.name,
            "records": f"{place}/records",
            "batch_size": _ROWS,
            "stop_step": _NUM_STEPS,
            "save_every_steps": 10,
            "steps_per_call": 5,
            "eval_every_steps": 25,
            **flags,
        },
    )
    return [str(DRIVER), *args]


def tensors(run_dir: str) -> dict[str, np.ndarray]:
    import tensorflow as tf

    path = tf.train.latest_checkpoint(f"{run_dir}/checkpoints")
    assert path.endswith(f"ckpt-{_NUM_STEPS}")
    reader = tf.train.load_checkpoint(path)
    keys = reader.get_variable_to_shape_map()
    return {key: reader.get_tensor(key) for key in keys if not key.startswith("_")}


def lines(run_dir: str, name: str) -> list[dict[str, float]]:
    with fsspec.open(f"{run_dir}/metrics/{name}.jsonl", "rt") as file:
        return [json.loads(line) for line in file]


def assert_same(one: str, other: str) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert sorted(ours) == sorted(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, err_msg=key)
    for name in ("train", "eval"):
        assert lines(one, name) == lines(other, name)


def test_the_tpu_initialises(settings: TpuSettings) -> None:
    code = (
        "from resumable_tf.tpu.cluster import make_tpu_strategy\n"
        "from resumable_tf.tpu.machine import settings_from\n"
        "strategy = make_tpu_strategy(settings_from(None))\n"
        "print(*strategy.extended.worker_devices)"
    )
    status, output = run(settings, "-c", code)
    assert status == 0, output
    devices = output.splitlines()[-1].split()
    assert devices and all(":TPU:" in device for device in devices)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_killed_training_ends_bit_for_bit_like_one_that_was_not(
    settings: TpuSettings, place: str, tmp_path: Path, dtype: str
) -> None:
    corpus = write_corpus(tmp_path / "corpus.tsv", num_pairs=4000)
    whole = train(settings, corpus, place, "whole", compute_dtype=dtype)
    status, output = run(settings, *whole)
    assert status == 0, output
    losses = [line["loss"] for line in lines(f"{place}/whole", "train")]
    assert losses[-1] < losses[0]
    killed = train(settings, corpus, place, "run", compute_dtype=dtype)
    for step in ("13", "38"):
        status, output = run(settings, *killed, KILL_AFTER_STEP=step)
        assert status == -signal.SIGKILL, output
    status, output = run(settings, *killed)
    assert status == 0, output
    assert "resumed from step 30" in output
    assert_same(f"{place}/run", f"{place}/whole")
    status, output = run(
        settings,
        *("scripts/export_model.py", "--run-dir", f"{place}/run"),
        TPU_LOAD_LIBRARY="0",
    )
    assert status == 0, output
    files = fsspec.core.url_to_fs(f"{place}/run/export")[0]
    assert [name for name in files.find(f"{place}/run/export") if "saved_model" in name]


def test_results_do_not_depend_on_the_steps_of_a_call(
    settings: TpuSettings, place: str, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus.tsv", num_pairs=4000)
    for name, num_steps in (("one", 1), ("ten", 10)):
        command = train(settings, corpus, place, name, steps_per_call=num_steps)
        status, output = run(settings, *command)
        assert status == 0, output
    assert_same(f"{place}/one", f"{place}/ten")


def test_losses_agree_with_those_of_a_cpu(
    settings: TpuSettings, place: str, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus.tsv", num_pairs=4000)
    flags = {"stop_step": 5, "log_every_steps": 1}
    status, output = run(settings, *train(settings, corpus, place, "tpu", **flags))
    assert status == 0, output
    command = train(settings, corpus, place, "cpu", **flags)
    for flag in ("--strategy", "--tpu"):
        del command[command.index(flag) : command.index(flag) + 2]
    status, output = run(settings, *command, TPU_LOAD_LIBRARY="0")
    assert status == 0, output
    curves = [lines(f"{place}/{name}", "train") for name in ("tpu", "cpu")]
    for one, other in zip(*curves, strict=True):
        assert one["num_tokens"] == other["num_tokens"]
        # A TPU multiplies float32 matrices in bfloat16 passes.
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-2)
