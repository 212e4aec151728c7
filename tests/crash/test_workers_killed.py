"""Workers of MultiWorkerMirroredStrategy killed one by one and all at once, on gs://.

All workers share a fake Google Cloud Storage over HTTP. Whoever loses a partner must
end by itself, in bounded time, with an error that says so: only then can a supervisor
start all of them again.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from helpers.counts import count
from helpers.fake_gcs import FakeGcs
from helpers.runs import (
    assert_same_run,
    start_training,
    train_args,
    write_corpus,
)
from helpers.workers import Ended, WorkerGroup, cluster_configs

_MAX_SECS_ALONE = 90.0
_SAVE_EVERY_STEPS = 2
_MOST_STEPS_A_START = 4


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[WorkerGroup]:
    workers = WorkerGroup(request.param)
    yield workers
    workers.close()


def fetch(url: str, directory: Path) -> Path:
    """Copies a run from the bucket, to be read with local tools."""
    files = fsspec.filesystem("gs", use_listings_cache=False, skip_instance_cache=True)
    for folder in ("checkpoints", "metrics"):
        files.get(f"{url}/{folder}", str(directory / folder), recursive=True)
    return directory


class Training:
    """One training on all workers of a group."""

    def __init__(self, group: WorkerGroup, server: FakeGcs, corpus: Path) -> None:
        self._group = group
        self._corpus = corpus
        self._env = {"STORAGE_EMULATOR_HOST": server.url}

    def run(
        self, url: str, *, stop_step: int, kills: dict[int, dict[str, str]]
    ) -> list[Ended]:
        args = train_args(
            url,
            self._corpus,
            strategy="multi_worker",
            batch_size=4,
            stop_step=stop_step,
            save_every_steps=_SAVE_EVERY_STEPS,
            steps_per_call=1,
            eval_every_steps=stop_step,
            log_every_steps=1,
        )
        return self._group.run(args, env=self._env, kills=kills)

    def finish(self, url: str, *, stop_step: int) -> None:
        for ended in self.run(url, stop_step=stop_step, kills={}):
            assert ended.code == 0, ended.output

    def kill(
        self, url: str, *, stop_step: int, kills: dict[int, dict[str, str]]
    ) -> None:
        """Starts all workers, kills some, and sees the others end by themselves."""
        ends = self.run(url, stop_step=stop_step, kills=kills)
        survivors = [end for index, end in enumerate(ends) if index not in kills]
        victims = [ends[index] for index in kills]
        # A victim whose time had not come loses its partner like everybody else.
        assert -signal.SIGKILL in [end.code for end in victims], victims[0].output
        died = min(end.at_secs for end in victims if end.code == -signal.SIGKILL)
        for end in [*survivors, *victims]:
            if end.code != -signal.SIGKILL:
                assert end.code == 69, end.output
                assert "HostLostError: lost" in end.output, end.output
                assert end.at_secs - died < _MAX_SECS_ALONE


def plan_of(
    num_workers: int, num_kills: int, *, seed: int
) -> Iterator[tuple[int, dict[int, dict[str, str]]]]:
    """Yields for each start when it is killed at the latest, and who how.

    Every other kill hits a worker in the hook after a step, every other at a random
    moment after it; every third kill hits all workers.
    """
    generator = random.Random(seed)
    step = 0
    for number in range(num_kills):
        step += generator.randint(1, _MOST_STEPS_A_START)
        victims = [number % num_workers]
        if number % 3 == 2:
            victims = list(range(num_workers))
        delay = generator.uniform(0.01, 1.0) if number % 2 else 0.0
        how = {"KILL_AFTER_STEP": str(step), "KILL_DELAY_SECS": f"{delay:.3f}"}
        yield step, {victim: how for victim in victims}


def attack(
    group: WorkerGroup, server: FakeGcs, directory: Path, *, num_kills: int, seed: int
) -> int:
    """Kills a training so many times; it ends as if it never had been killed."""
    corpus = write_corpus(directory / "corpus.tsv")
    training = Training(group, server, corpus)
    plan = list(plan_of(group.num_workers, num_kills, seed=seed))
    # Enough steps that no start finishes before it is killed.
    stop_step = plan[-1][0] + 20
    training.finish("gs://bucket/whole", stop_step=stop_step)
    num_killed = 0
    for _, kills in plan:
        training.kill("gs://bucket/run", stop_step=stop_step, kills=kills)
        num_killed += len(kills)
    training.finish("gs://bucket/run", stop_step=stop_step)
    paths = [
        fetch(f"gs://bucket/{name}", directory / name) for name in ("run", "whole")
    ]
    assert_same_run(*paths, started_as="gs://bucket/run")
    return num_killed


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("group", [2], indirect=True)
def test_two_workers_killed_one_by_one_and_together_resume_exactly(
    group: WorkerGroup, fake_gcs: FakeGcs, tmp_path: Path
) -> None:
    attack(group, fake_gcs, tmp_path, num_kills=3, seed=1)


@pytest.mark.proof
@pytest.mark.crash
def test_a_worker_whose_chief_falls_silent_ends_by_itself(tmp_path: Path) -> None:
    """Guards against waiting for ever: the connection to a frozen host stays open."""
    args = train_args(
        tmp_path / "run",
        write_corpus(tmp_path / "corpus.tsv"),
        strategy="multi_worker",
        stop_step=100_000,
        steps_per_call=1,
        log_every_steps=1,
        eval_every_steps=100_000,
    )
    chief, other = (
        start_training(args, TF_CONFIG=config) for config in cluster_configs(2)
    )
    try:
        log = tmp_path / "run" / "metrics" / "train.jsonl"
        # Its first line is written with the first save.
        while not (log.exists() and log.read_text()):
            assert chief.poll() is None and other.poll() is None
            time.sleep(0.05)
        chief.send_signal(signal.SIGSTOP)
        output, _ = other.communicate(timeout=_MAX_SECS_ALONE)
        assert other.returncode == 69, output
        assert "HostLostError: lost a host of this training" in output
    finally:
        for process in (chief, other):
            process.kill()
            process.communicate()


# In pieces, since a tenth of the proof has to fit into CI: each kills a training of its
# own so many times.
@pytest.mark.proof
@pytest.mark.crash
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(2, 12))
@pytest.mark.parametrize("group", [2, 4], indirect=True)
def test_fifty_kills_of_a_cluster_resume_exactly(
    group: WorkerGroup, fake_gcs: FakeGcs, tmp_path: Path, seed: int
) -> None:
    num_killed = attack(group, fake_gcs, tmp_path, num_kills=5, seed=seed)
    count(f"{group.num_workers} workers: 5 kills, {num_killed} processes, exact")
