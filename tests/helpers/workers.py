"""Two training processes that know each other through TF_CONFIG."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

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
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes: list[subprocess.Popen[str]] = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": workers}, "task": task})
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
