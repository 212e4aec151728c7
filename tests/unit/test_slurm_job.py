"""When `scripts/slurm_job.sh` puts its job back, with programs in training's place."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers.fake_slurm import JOB_ID, FakeSlurm, Job

# As training does; says what comes meanwhile.
_SAVES_FOR_A_WHILE = (
    "trap 'echo TERM; saving=yes' TERM; touch started\n"
    'until [ -n "$saving" ]; do sleep 0.02; done; sleep 0.5; exit 75'
)


@pytest.mark.parametrize("code", [0, 1, 2, 75, 143])
def test_only_a_stop_after_a_save_is_requeued(tmp_path: Path, code: int) -> None:
    slurm = FakeSlurm(tmp_path)
    slurm.replace_python(f'echo "$@"; exit {code}')
    found, output = slurm.start(["--preset", "base"], restart_count=0).wait()
    assert found == code
    assert slurm.requeued == ([f"requeue {JOB_ID}"] if code == 75 else [])
    flags = "scripts/train_translation.py --place slurm --preset base"
    assert output.splitlines()[0] == flags


def test_a_signal_before_training_has_begun_is_requeued(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path)
    slurm.replace_python(f"touch {tmp_path}/started; exec sleep 60")
    job = slurm.start([], restart_count=0)
    job.wait_for(tmp_path, "started")
    job.signal_batch_script()
    code, output = job.wait()
    assert code == 143, output
    assert slurm.requeued == [f"requeue {JOB_ID}"]


@pytest.mark.parametrize("is_script_signalled", [True, False])
@pytest.mark.parametrize("code", [75, 143])
def test_a_cancelled_job_stays_cancelled(
    tmp_path: Path, is_script_signalled: bool, code: int
) -> None:
    slurm = FakeSlurm(tmp_path)
    # Slurm signals the steps, and the script or not.
    until = "[ -e go ]" if not is_script_signalled else '[ -n "$stopped" ]'
    slurm.replace_python(
        "trap stopped=yes TERM; touch started\n"
        f"until {until}; do sleep 0.02; done; exit {code}"
    )
    job = slurm.start([], restart_count=0)
    job.wait_for(tmp_path, "started")
    slurm.end_job()
    if is_script_signalled:
        job.signal_batch_script()
    else:
        (tmp_path / "go").touch()
    found, output = job.wait()
    assert found == code, output
    assert slurm.requeued == []


@pytest.mark.parametrize("missed", ["step", "controller"])
def test_training_that_missed_the_signal_gets_it_when_the_time_is_up(
    tmp_path: Path, missed: str
) -> None:
    """It was not there yet, or Slurm's controller did not answer."""
    slurm = FakeSlurm(tmp_path)
    slurm.replace_python(
        "trap 'exit 75' TERM; touch started; while :; do sleep 0.02; done"
    )
    if missed == "step":
        slurm.hold_step()
        job = slurm.start([], restart_count=0)
        job.wait_for(tmp_path, "held")
        _signal_until(job, "passed on")
        slurm.release_step()
        job.wait_for(tmp_path, "started")
    else:
        slurm.lose_controller()
        job = slurm.start([], restart_count=0)
        job.wait_for(tmp_path, "started")
        _signal_until(job, "scancel failed")
    slurm.end_job()
    job.signal_batch_script()
    code, output = job.wait()
    assert code == 75, output
    assert slurm.requeued == [f"requeue {JOB_ID}"]


def test_a_save_that_outlasts_the_time_limit_is_still_requeued(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path)
    slurm.replace_python(
        "trap 'touch saving' TERM; touch started\n"
        "until [ -e go ]; do sleep 0.02; done; exit 75"
    )
    job = slurm.start([], restart_count=0)
    job.wait_for(tmp_path, "started")
    _signal_until(job, "passed on")
    slurm.end_job()
    (tmp_path / "go").touch()
    found, output = job.wait()
    assert found == 75, output
    assert slurm.requeued == [f"requeue {JOB_ID}"]


def test_training_that_slurm_has_signalled_itself_is_not_signalled_again(
    tmp_path: Path,
) -> None:
    slurm = FakeSlurm(tmp_path)
    slurm.replace_python(_SAVES_FOR_A_WHILE)
    job = slurm.start([], restart_count=0)
    job.wait_for(tmp_path, "started")
    slurm.end_job()
    job.signal_batch_script()
    code, output = job.wait()
    assert (code, output.count("TERM")) == (75, 1)


def test_without_an_answer_about_its_state_a_job_is_requeued(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path)
    slurm.lose_controller()
    slurm.replace_python("exit 75")
    slurm.start([], restart_count=0).wait()
    assert slurm.requeued == [f"requeue {JOB_ID}"]


def test_training_gets_the_signal_once_however_often_slurm_sends_it(
    tmp_path: Path,
) -> None:
    slurm = FakeSlurm(tmp_path)
    slurm.replace_python(_SAVES_FOR_A_WHILE)
    job = slurm.start([], restart_count=0)
    job.wait_for(tmp_path, "started")
    for _ in range(3):
        job.signal_batch_script()
        time.sleep(0.05)
    code, output = job.wait()
    assert (code, output.count("TERM")) == (75, 1)
    assert slurm.requeued == [f"requeue {JOB_ID}"]


def _signal_until(job: Job, expected: str) -> None:
    job.signal_batch_script()
    while expected not in (said := job.read_line()):
        assert said, "the job has ended"
