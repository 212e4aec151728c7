"""Answers TensorFlow's calls on one host of a TPU pod.

    python -m resumable_tf.tpu.pod_worker --task-index 3 --port 8470

Training on a pod has one client, on worker 0; it reaches the chips of all hosts through
TensorFlow's gRPC worker on each. Google's images for pods bring one, of their own
TensorFlow, which ends at 2.18. This one is of the TensorFlow that is installed here.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

_log = logging.getLogger(__name__)

PORT = 8470
"""Where Cloud TPU's API says that a node's workers are."""


def main(args: Sequence[str] | None = None) -> None:
    """Serves until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task-index", type=int, required=True)
    parser.add_argument("--port", type=int, default=PORT)
    flags = parser.parse_args(args)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import tensorflow as tf

    # The client names all hosts when it connects; alone, a worker knows itself only.
    cluster = tf.train.ClusterSpec(
        {"worker": {flags.task_index: f"localhost:{flags.port}"}}
    )
    server = tf.distribute.Server(
        cluster, job_name="worker", task_index=flags.task_index, protocol="grpc"
    )
    _log.info("worker %d answers at %s", flags.task_index, server.target)
    server.join()


if __name__ == "__main__":
    main()
