"""Our own gRPC workers, as a pod's hosts run them, with one client; on CPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_CLIENT = """
import sys, tensorflow as tf
hosts = sys.argv[1:]
tf.config.experimental_connect_to_cluster(tf.train.ClusterSpec({"worker": hosts}))
for task in range(len(hosts)):
    with tf.device(f"/job:worker/replica:0/task:{task}/device:CPU:0"):
        print(tf.Variable(tf.fill([2], task + 1.0)).device)

@tf.function
def add():
    total = tf.constant(0.0)
    for task in range(len(hosts)):
        with tf.device(f"/job:worker/replica:0/task:{task}/device:CPU:0"):
            total += task + 1.0
    return total

print("sum", float(add()))
"""


_OUTLIVE = """
import logging, sys
from resumable_tf.tpu.pod_worker import hold_sigterm, outlive_sigterm
logging.basicConfig(level=logging.INFO)
hold_sigterm()
print("up", file=sys.stderr, flush=True)
outlive_sigterm(float(sys.argv[1]))
"""


@pytest.mark.parametrize(("stop_secs", "is_told_twice"), [(0.5, False), (600, True)])
def test_a_worker_outlives_one_sigterm_for_a_while_and_not_two(
    stop_secs: float, is_told_twice: bool
) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", _OUTLIVE, str(stop_secs)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stderr is not None
    assert worker.stderr.readline() == "up\n"
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    # Two at once would be one.
    assert "SIGTERM: answering" in worker.stderr.readline()
    if is_told_twice:
        worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=60)
    assert worker.returncode == 0
    assert is_told_twice or time.monotonic() - began >= stop_secs


@pytest.mark.slow
def test_a_client_computes_on_workers_that_know_only_themselves() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    module = [sys.executable, "-m", "resumable_tf.tpu.pod_worker"]
    workers = [
        subprocess.Popen(
            # Port 0 lets the system choose; the line that follows says which.
            [*module, "--task-index", str(task), "--port", "0", "--stop-secs", "600"],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in range(2)
    ]
    try:
        hosts = [_address(worker, task) for task, worker in enumerate(workers)]
        # A second client must get the same answer: the first one may be killed. Also
        # after SIGTERM, for which TensorFlow has a handler of its own by then.
        for is_told in (False, True):
            for worker in workers if is_told else ():
                worker.send_signal(signal.SIGTERM)
            done = subprocess.run(
                [sys.executable, "-c", _CLIENT, *hosts],
                env=env,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.stdout.splitlines() == [
                "/job:worker/replica:0/task:0/device:CPU:0",
                "/job:worker/replica:0/task:1/device:CPU:0",
                "sum 3.0",
            ], done.stderr
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
            worker.communicate(timeout=60)
            assert worker.returncode == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def _address(worker: subprocess.Popen[str], task: int) -> str:
    assert worker.stderr is not None
    for line in worker.stderr:
        if line.startswith(f"worker {task} answers at grpc://"):
            return line.split("grpc://")[1].strip()
    raise AssertionError(f"worker {task} ended with {worker.wait()}")
