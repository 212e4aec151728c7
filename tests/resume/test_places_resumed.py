"""Real trainings under the contracts of SageMaker, Azure ML and Slurm, imitated."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.fake_slurm import JOB_ID, FakeSlurm
from helpers.runs import (
    DRIVER,
    ROOT,
    assert_equal_runs,
    assert_same_run,
    run_training,
    start_training,
    train_args,
    write_corpus,
)

_FLAGS = {"steps_per_call": 1, "stop_step": 30}
_AT_THE_END = 600  # Far more than a test takes.


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.tsv")


@pytest.fixture(scope="module")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("reference") / "run"
    done = run_training(train_args(run_dir, corpus, **_FLAGS))
    assert done.returncode == 0, done.stderr
    return run_dir


def _args(corpus: Path) -> list[str]:
    """Returns the flags without --run-dir, which the place fills in."""
    args = train_args(Path("unused"), corpus, **_FLAGS)
    at = args.index("--run-dir")
    return args[:at] + args[at + 2 :]


@pytest.mark.crash
@pytest.mark.slow
def test_a_slurm_job_is_requeued_after_its_signal_and_ends_the_same(
    tmp_path: Path, corpus: Path, reference: Path
) -> None:
    slurm = FakeSlurm(tmp_path)
    assert slurm.options["--signal"].startswith("B:TERM@") and "--requeue" in (
        slurm.options
    )
    job = slurm.start(_args(corpus), restart_count=0)
    job.wait_for(slurm.run_dir / "checkpoints", "ckpt-*.manifest.json")
    job.signal_batch_script()
    # Slurm signals again when the time is up; the save must not be cut short.
    job.signal_batch_script()
    code, output = job.wait()
    assert code == 75, output
    assert slurm.requeued == [f"requeue {JOB_ID}"]
    code, output = slurm.start(_args(corpus), restart_count=1).wait()
    assert code == 0, output
    assert re.search(r"resumed from step [1-9]", output), output
    assert slurm.requeued == [f"requeue {JOB_ID}"]
    # The job runs the script itself, which notes nothing for the tests.
    assert_equal_runs(slurm.run_dir, reference)


@pytest.mark.crash
@pytest.mark.proof
def test_a_sagemaker_job_goes_on_from_a_torn_copy_and_leaves_a_model(
    tmp_path: Path, corpus: Path, reference: Path
) -> None:
    """Three containers, of which only what was copied to S3 remains."""
    first, second = _container(tmp_path / "1"), _container(tmp_path / "2")
    args = [*_args(corpus), "--place", "sagemaker"]
    # Spot capacity is gone without a word. The copy had the newest manifest already,
    # and half of its data.
    killed = run_training(args, kill_after_step=19, **first)
    assert killed.returncode == -signal.SIGKILL
    _copy(first, second)
    *_, whole, torn = _steps(_checkpoints(second))
    for data in (_checkpoints(second) / "checkpoints").glob(f"ckpt-{torn}.data-*"):
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    # The second time there is a notice: SIGTERM, and SIGKILL 120 s later.
    process = start_training(args, **second)
    _wait_for_step(_checkpoints(second), torn + 4, process.poll)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert f"resumed from step {whole}" in output
    third = _container(tmp_path / "3")
    _copy(second, third)
    done = run_training(args, **third)
    assert done.returncode == 0, done.stderr
    # A copy is another run directory: SageMaker's own path leads to it.
    assert f"resumed from step {_steps(_checkpoints(second))[-1]}" in done.stderr
    assert_equal_runs(_checkpoints(third), reference)
    assert (Path(third["SM_MODEL_DIR"]) / "1" / "saved_model.pb").exists()


@pytest.mark.crash
@pytest.mark.proof
def test_an_azure_job_goes_on_from_the_mounted_output(
    tmp_path: Path, corpus: Path, reference: Path
) -> None:
    """A low-priority node is evicted; the next one has the same output mounted."""
    mounted = tmp_path / "mounted"
    env = {"AZUREML_RUN_ID": "run_1", "AZURE_ML_OUTPUT_run": str(mounted)}
    args = [*_args(corpus), "--place", "auto"]
    killed = run_training(args, kill_after_step=17, **env)
    assert killed.returncode == -signal.SIGKILL
    newest = max(_steps(mounted))
    # outputs/, where the model goes, is relative to where the job runs.
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, str(DRIVER), *args],
        cwd=tmp_path,
        env={**os.environ, **env, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert f"resumed from step {newest}" in done.stderr
    assert_same_run(mounted, reference)
    assert (tmp_path / "outputs" / "model" / "1" / "saved_model.pb").exists()


def _steps(run_dir: Path) -> list[int]:
    manifests = (run_dir / "checkpoints").glob("ckpt-*.manifest.json")
    return sorted(int(path.name.split("-")[1].split(".")[0]) for path in manifests)


def _container(folder: Path) -> dict[str, str]:
    """Returns the environment of a container with an empty /opt/ml."""
    for name in ("checkpoints", "model"):
        (folder / name).mkdir(parents=True)
    return {
        "SAGEMAKER_BASE_DIR": str(folder),
        "SM_MODEL_DIR": str(folder / "model"),
        "SM_CURRENT_HOST": "algo-1",
    }


def _checkpoints(container: dict[str, str]) -> Path:
    return Path(container["SAGEMAKER_BASE_DIR"]) / "checkpoints"


def _copy(source: dict[str, str], target: dict[str, str]) -> None:
    """Does what SageMaker does: to S3, file by file, and back into a new container."""
    shutil.copytree(_checkpoints(source), _checkpoints(target), dirs_exist_ok=True)


def _wait_for_step(run_dir: Path, step: int, poll: object) -> None:
    ends = time.monotonic() + _AT_THE_END
    while not (run_dir / "checkpoints" / f"ckpt-{step}.manifest.json").exists():
        assert poll() is None and time.monotonic() < ends  # type: ignore[operator]
        time.sleep(0.01)
