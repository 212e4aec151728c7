"""Training processes that know each other through TF_CONFIG."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from helpers.fork_server import ForkServer
from helpers.runs import start_training, train_args


def free_ports(count: int) -> list[int]:
    """Returns ports of this host that nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def cluster_configs(num_workers: int) -> list[str]:
    """Returns each worker's TF_CONFIG, for a cluster of this moment."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(num_workers)]
    tasks = [{"type": "worker", "index": index} for index in range(num_workers)]
    return [
        json.dumps({"cluster": {"worker": workers}, "task": task}) for task in tasks
    ]


def run_workers(
    run_dir: Path,
    corpus: Path,
    *,
    stop_step: int,
    env_of_second: dict[str, str] | None = None,
    flags: dict[str, object] | None = None,
    **env: str,
) -> list[tuple[int, str]]:
    """Runs both workers to their end; returns their exit codes and outputs."""
    settings = {"strategy": "multi_worker", "stop_step": stop_step, **(flags or {})}
    args = train_args(run_dir, corpus, **settings)
    processes: list[subprocess.Popen[str]] = []
    for index, config in enumerate(cluster_configs(2)):
        variables = {**env, **((env_of_second or {}) if index else {})}
        processes.append(start_training(args, TF_CONFIG=config, **variables))
    results = []
    for process in processes:
        try:
            output, _ = process.communicate(timeout=240)
        finally:
            process.kill()
        results.append((process.returncode, output))
    return results


@dataclass(frozen=True)
class Ended:
    """How a worker ended.

    Attributes:
        code: Its exit code, negative for a signal.
        output: What it wrote to standard error.
        at_secs: When, on the monotonic clock.
    """

    code: int
    output: str
    at_secs: float


class WorkerGroup:
    """Starts the workers of a cluster again and again, as forks of warm processes."""

    def __init__(self, num_workers: int, *, timeout_secs: float = 300.0) -> None:
        self.num_workers = num_workers
        self._servers = [ForkServer() for _ in range(num_workers)]
        self._timeout_secs = timeout_secs

    def run(
        self,
        args: list[str],
        *,
        env: Mapping[str, str],
        kills: Mapping[int, Mapping[str, str]],
    ) -> list[Ended]:
        """Runs all workers to their ends.

        Args:
            args: Flags of the training script.
            env: Environment of all.
            kills: By worker, what makes `train_and_die` kill it.
        """
        configs = cluster_configs(len(self._servers))

        def run_one(index: int) -> Ended:
            own = {**env, **kills.get(index, {}), "TF_CONFIG": configs[index]}
            done = self._servers[index].run(
                args, env=own, timeout_secs=self._timeout_secs
            )
            return Ended(done.returncode, done.stderr, time.monotonic())

        with ThreadPoolExecutor(len(self._servers)) as pool:
            return list(pool.map(run_one, range(len(self._servers))))

    def close(self) -> None:
        for server in self._servers:
            server.close()
