"""A TPU pod's shape on one machine: TensorFlow's gRPC workers as separate processes.

    with Pod(directory, num_hosts=2) as pod:
        pod.addresses, pod.kill(1), pod.start(1)

    python -m helpers.tpu_pod --task-index 0 --port 8470       # one worker

Each worker has a working directory of its own, so a path under `/proc/self/cwd` means
another file in each process, as a local path does on each host of a pod. A worker can't
write any file.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from helpers.workers import free_ports

from resumable_tf.tpu.pod_worker import STOP_SECS, hold_sigterm, outlive_sigterm

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = "/proc/self/cwd"
"""A directory that is another one in each process."""

DEVICES_PER_HOST = 1


class Pod:
    """The workers; they live while its `with` block runs."""

    def __init__(self, directory: Path, *, num_hosts: int = 2) -> None:
        self._directory = directory
        self._ports = free_ports(num_hosts)
        self._workers: dict[int, subprocess.Popen[str]] = {}

    @property
    def addresses(self) -> str:
        """What `--tpu` takes."""
        return "grpc://" + ",".join(f"127.0.0.1:{port}" for port in self._ports)

    def directory_of(self, index: int) -> Path:
        """Returns the working directory of a worker."""
        return self._directory / f"host-{index}"

    def start(self, *indices: int) -> None:
        """Starts workers; returns once they answer."""
        started = [self._start(index) for index in indices]
        for worker in started:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "up\n"

    def _start(self, index: int) -> subprocess.Popen[str]:
        directory = self.directory_of(index)
        directory.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        port = str(self._ports[index])
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", "helpers.tpu_pod"),
                *("--task-index", str(index), "--port", port),
            ],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._workers[index] = worker
        return worker

    def terminate(self) -> None:
        """Sends SIGTERM to all workers, as their hosts do at a preemption."""
        for worker in self._workers.values():
            worker.terminate()

    def wait(self) -> list[int]:
        """Waits until all workers have ended; returns their exit codes."""
        for worker in self._workers.values():
            worker.communicate(timeout=20)
        return [self._workers.pop(index).returncode for index in sorted(self._workers)]

    def kill(self, index: int) -> None:
        """Ends a worker with SIGKILL, as a host that is gone."""
        worker = self._workers.pop(index)
        worker.kill()
        worker.communicate()

    def __enter__(self) -> Pod:
        self.start(*range(len(self._ports)))
        return self

    def __exit__(self, *_: object) -> None:
        for index in list(self._workers):
            self.kill(index)


def copy_to_hosts(pod: Pod, directory: Path, *, num_hosts: int = 2) -> None:
    """Gives every host a copy of a directory on its own disk."""
    for index in range(num_hosts):
        target = pod.directory_of(index) / directory.name
        shutil.copytree(directory, target, dirs_exist_ok=True)


def serve() -> None:
    """Answers as one host until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task-index", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    flags = parser.parse_args()
    hold_sigterm()
    import tensorflow as tf

    cluster = tf.train.ClusterSpec(
        {"worker": {flags.task_index: f"127.0.0.1:{flags.port}"}}
    )
    _server = tf.distribute.Server(
        cluster,
        job_name="worker",
        task_index=flags.task_index,
        protocol="grpc",
        config=tf.compat.v1.ConfigProto(device_count={"CPU": DEVICES_PER_HOST}),
    )
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    os.write(1, b"up\n")
    outlive_sigterm(STOP_SECS)
    os._exit(0)


if __name__ == "__main__":
    serve()
