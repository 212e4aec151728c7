"""The command that a TPU job trains with: it must be able to, and to save in time.

Guards against a TPU that is bought, installed and paid for, and can't make a step.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable

import pytest

from resumable_tf.errors import UsageError
from resumable_tf.supervising.restarts import (
    Attempt,
    History,
    RestartPolicy,
    Stop,
    decide,
)
from resumable_tf.tpu.job_files import train_script
from resumable_tf.tpu.jobs import JobSettings
from resumable_tf.tpu.jobset import GRACE_SECS, container_script

VM_SECS = 30
"""From a spot VM's notice to its end."""
Script = Callable[[JobSettings], str]


def job(accelerator_type: str, train_args: str) -> JobSettings:
    return JobSettings(
        name="demo",
        project="my-project",
        zone="us-west4-a",
        accelerator_type=accelerator_type,
        run_dir="gs://bucket/runs/demo",
        train_args=tuple(train_args.split()),
    )


@pytest.mark.parametrize("make", [train_script, container_script])
@pytest.mark.parametrize(
    ("accelerator_type", "train_args", "batch_size", "num_replicas"),
    [
        ("v5litepod-16", "--preset base", "200 of --preset base", 16),
        ("v5litepod-16", "--preset=big", "200 of --preset big", 16),
        ("v5litepod-16", "--preset tiny --preset base", "200 of --preset base", 16),
        ("v5litepod-32", "", "16 of --preset tiny", 32),
        ("v5litepod-16", "--batch-size 24", "--batch-size 24", 16),
        ("v5litepod-16", "--preset base --batch-size=100", "--batch-size 100", 16),
        # Each core of v3 is a replica; both cores of a chip of v4 and v5p are one.
        ("v3-32", "--batch-size 16", "--batch-size 16", 32),
        ("v4-32", "--batch-size 8", "--batch-size 8", 16),
        ("v5p-32", "--batch-size 8", "--batch-size 8", 16),
        ("v6e-64", "--preset base", "200 of --preset base", 64),
        ("tpu7x-16", "--batch-size 16", "--batch-size 16", 32),
    ],
)
def test_rows_that_the_replicas_can_not_share_evenly_are_refused(
    make: Script,
    accelerator_type: str,
    train_args: str,
    batch_size: str,
    num_replicas: int,
) -> None:
    with pytest.raises(UsageError) as raised:
        make(job(accelerator_type, train_args))
    said = str(raised.value)
    assert batch_size in said
    assert f"{accelerator_type} has {num_replicas} replicas" in said
    assert f"multiple of {num_replicas}" in said


@pytest.mark.parametrize(
    ("accelerator_type", "train_args"),
    [
        ("v5litepod-16", ""),
        ("v5litepod-16", "--preset base --batch-size 256"),
        ("v5litepod-16", "--batch-size 24 --batch-size=32"),
        ("v5litepod-8", "--preset base"),
        ("v4-32", "--batch-size 16"),
        # What can't be known here is left to training.
        ("v5litepod-16", "--preset huge"),
        ("v5litepod-16", "--batch-size many"),
        ("v5litepod-16", "--batch-size"),
    ],
)
def test_a_batch_size_that_may_work_is_not_refused(
    accelerator_type: str, train_args: str
) -> None:
    assert train_args in train_script(job(accelerator_type, train_args))


def flag_of(words: list[str], name: str) -> str:
    """Returns the value that a command takes: the last one given."""
    (*_, value) = (b for a, b in itertools.pairwise(words) if a == name)
    return value


@pytest.mark.parametrize(
    ("make", "all_secs"), [(train_script, VM_SECS), (container_script, GRACE_SECS)]
)
def test_training_knows_how_long_the_supervisor_lets_it_save(
    make: Script, all_secs: int
) -> None:
    words = shlex.split(make(job("v4-8", "")))
    stop_secs = flag_of(words, "--stop-secs")
    assert flag_of(words, "--grace-secs") == stop_secs
    assert int(stop_secs) < all_secs
    words = shlex.split(make(job("v4-8", "--grace-secs 15")))
    assert flag_of(words, "--grace-secs") == "15"


@pytest.mark.parametrize("make", [train_script, container_script])
def test_a_job_outlasts_an_outage_of_minutes_before_it_counts_as_a_crash_loop(
    make: Script,
) -> None:
    """After a crash loop nothing starts it again."""
    words = shlex.split(make(job("v4-8", "")))
    policy = RestartPolicy(max_fruitless=int(flag_of(words, "--max-fruitless")))
    crash = Attempt(exit_code=1, last_step=None, ran_secs=30.0)
    history, waited = History(), 0.0
    while True:
        history = history.after(crash, steady_secs=policy.steady_secs)
        decision = decide(crash, history, policy, jitter=0.0)
        if isinstance(decision, Stop):
            break
        waited += decision.after_secs
    assert 120 < waited < 1200
