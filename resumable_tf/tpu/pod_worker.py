"""Answers TensorFlow's calls on one host of a TPU pod.

    python -m resumable_tf.tpu.pod_worker --task-index 3 --port 8470

Training on a pod has one client, on worker 0; it reaches the chips of all hosts through
TensorFlow's gRPC worker on each. Google's images for pods bring one, of their own
TensorFlow, which ends at 2.18. This one is of the TensorFlow that is installed here.

When a pod is preempted all hosts are told at once, and the client needs them for the
call that runs and for its last save. So a worker answers for `--stop-secs` after
SIGTERM, since it can't know when the client is done. A second SIGTERM ends it at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
from collections.abc import Sequence

_log = logging.getLogger(__name__)

PORT = 8470
"""Where Cloud TPU's API says that a node's workers are."""
STOP_SECS = 28.0
"""All that a spot VM's 30 s leave the client to save in, as its systemd unit says."""


def main(args: Sequence[str] | None = None) -> None:
    """Serves until the process is ended, and for a while after SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task-index", type=int, required=True)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--stop-secs", type=float, default=STOP_SECS)
    flags = parser.parse_args(args)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    hold_sigterm()
    import tensorflow as tf

    # The client names all hosts when it connects; alone, a worker knows itself only.
    cluster = tf.train.ClusterSpec(
        {"worker": {flags.task_index: f"localhost:{flags.port}"}}
    )
    server = tf.distribute.Server(
        cluster, job_name="worker", task_index=flags.task_index, protocol="grpc"
    )
    _log.info("worker %d answers at %s", flags.task_index, server.target)
    outlive_sigterm(flags.stop_secs)
    # TensorFlow's server can't be stopped: its threads would run into the clean-up
    # of a normal exit.
    os._exit(0)


def hold_sigterm() -> None:
    """Leaves SIGTERM to `outlive_sigterm`; to be called before there are other threads.

    Blocked, since TensorFlow puts a handler of its own in the place of any other when a
    client connects, after which SIGTERM never ends the process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def outlive_sigterm(stop_secs: float) -> None:
    """Returns that long after SIGTERM, or at the second one.

    Args:
        stop_secs: How long.
    """
    signal.sigwait({signal.SIGTERM})
    _log.info("SIGTERM: answering for %g s more, for the client's last save", stop_secs)
    signal.sigtimedwait({signal.SIGTERM}, stop_secs)


if __name__ == "__main__":
    main()
