"""Which process of TF_CONFIG this is; needs no TensorFlow.

    task = cluster_task(os.environ)
    task.index, task.count      # 0, 1 without TF_CONFIG

Process 0 is the chief: the one with that title, or worker 0 where nobody has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from resumable_tf.errors import UsageError

_TRAINING = ("chief", "worker")


@dataclass(frozen=True)
class ClusterTask:
    """One process of a cluster.

    Attributes:
        kind: Its type; others than "chief" and "worker" do not train.
        index: Its number among those that train.
        count: How many train, 1 without a cluster.
    """

    kind: str
    index: int
    count: int

    @property
    def trains(self) -> bool:
        """Whether it takes part in the training."""
        return self.kind in _TRAINING

    @property
    def is_chief(self) -> bool:
        """Whether it stands for the whole training."""
        return self.trains and self.index == 0


def cluster_task(environ: Mapping[str, str]) -> ClusterTask:
    """Returns which process this is.

    Args:
        environ: Variables, such as `os.environ`.

    Raises:
        UsageError: If TF_CONFIG can't be read.
    """
    text = environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        num_chiefs = len(cluster.get("chief", ()))
        count = num_chiefs + len(cluster.get("worker", ()))
        kind = task.get("type", "chief" if num_chiefs else "worker")
        index = int(task.get("index", 0)) + (num_chiefs if kind == "worker" else 0)
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(
            f"TF_CONFIG is {text!r}, which can't be read ({error}).\n"
            'Expected {"cluster": {"worker": ["host:port", ...]}, "task": {...}}.'
        ) from error
    return ClusterTask(kind, index, max(1, count))
