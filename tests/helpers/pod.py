"""Run as a program: a host of a pod, or the client that computes on it.

python -m helpers.pod worker ADDRESS
python -m helpers.pod client ADDRESS RUN_DIRECTORY
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import tensorflow as tf
from helpers.small_state import advance, small_state

import resumable_tf as rtf

STOP_STEP = 60
STEP_SECS = 0.1


def serve(address: str) -> None:
    """Computes what clients ask for."""
    cluster = tf.train.ClusterSpec({"worker": [address]})
    server = tf.distribute.Server(cluster, job_name="worker", task_index=0)
    print("ready", flush=True)
    server.join()


def train(address: str, run_dir: str) -> None:
    """Makes steps of which each needs the host."""
    tf.config.experimental_connect_to_host(address)
    state = small_state()
    with (
        rtf.Checkpointer(run_dir, every_steps=5) as checkpointer,
        rtf.PreemptionGuard(sources=()) as guard,
    ):
        checkpointer.restore_or_initialize(state)
        while state.step < STOP_STEP:
            with tf.device("/job:worker/replica:0/task:0/device:CPU:0"):
                tf.add(1.0, float(state.step)).numpy()
            advance(state)
            with Path(run_dir, "steps").open("a") as file:
                file.write(f"{state.step}\n")
            checkpointer.maybe_save(state)
            guard.after_step(state, checkpointer)
            time.sleep(STEP_SECS)


if __name__ == "__main__":
    {"worker": serve, "client": train}[sys.argv[1]](*sys.argv[2:])
