"""Makes the `tf.distribute` strategy that `--strategy` names.

    strategy = make_strategy("mirrored", num_replicas=2)
    with strategy.scope():
        model = ...

Must be called before any other TensorFlow operation: logical devices and the
collectives of several workers can only be set up then.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from resumable_tf.errors import DeviceError, UsageError
from resumable_tf.tpu.cluster import make_tpu_strategy
from resumable_tf.tpu.machine import TpuSettings, settings_from
from resumable_tf.training.cluster_task import cluster_task

STRATEGIES = ("one", "mirrored", "multi_worker", "tpu")


def make_strategy(
    name: str, *, num_replicas: int | None = None, tpu: TpuSettings | None = None
) -> Any:
    """Returns a strategy.

    Args:
        name: `one` device, `mirrored` over the devices of this machine,
            `multi_worker` over the processes of `TF_CONFIG`, or `tpu`.
        num_replicas: For `mirrored`: how many GPUs, or logical CPU devices where
            there is no GPU. All GPUs, or 2 CPU devices, if None.
        tpu: For `tpu`: which one. That of the environment, or of this machine, if
            None.

    Raises:
        DeviceError: If the devices are not there.
        UsageError: If `name` is unknown or `num_replicas` does not apply.
    """
    if name not in STRATEGIES:
        raise UsageError(
            f"--strategy {name!r} is none of {', '.join(STRATEGIES)}. Use one of these."
        )
    if num_replicas is not None and name != "mirrored":
        raise UsageError(
            f"--num-replicas {num_replicas} has no effect with --strategy {name}.\n"
            "Leave it out, or use --strategy mirrored."
        )
    if name == "mirrored":
        return _make_mirrored(num_replicas)
    if name == "multi_worker":
        return _make_multi_worker()
    if name == "tpu":
        return make_tpu_strategy(tpu or settings_from(None))
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    return tf.distribute.OneDeviceStrategy("/gpu:0" if has_gpu else "/cpu:0")


def _make_mirrored(num_replicas: int | None) -> Any:
    """Returns a MirroredStrategy over GPUs, or over logical CPU devices.

    Raises:
        DeviceError: If there are fewer GPUs than asked for, or TensorFlow has
            started already.
        UsageError: If `num_replicas` is not positive.
    """
    if num_replicas is not None and num_replicas < 1:
        raise UsageError(f"--num-replicas {num_replicas}: it must be at least 1.")
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        wanted = num_replicas or len(gpus)
        if wanted > len(gpus):
            raise DeviceError(
                f"--num-replicas {wanted}: this machine has {len(gpus)} GPUs."
            )
        return tf.distribute.MirroredStrategy([f"/gpu:{i}" for i in range(wanted)])
    wanted = num_replicas or 2
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * wanted
        )
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("CPU")) < wanted:
            raise DeviceError(
                f"can't make {wanted} logical CPU devices: TensorFlow has started "
                "already. Make the strategy before any other TensorFlow call."
            ) from error
    return tf.distribute.MirroredStrategy([f"/cpu:{i}" for i in range(wanted)])


def _make_multi_worker() -> Any:
    """Returns a MultiWorkerMirroredStrategy over the workers in TF_CONFIG.

    Raises:
        UsageError: If TF_CONFIG is not set, names no workers, or this is none.
    """
    config = os.environ.get("TF_CONFIG", "")
    try:
        workers = json.loads(config)["cluster"]["worker"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--strategy multi_worker needs TF_CONFIG; it is {config!r}.\n"
            '  expected: {"cluster": {"worker": ["host:port", ...]}, '
            '"task": {"type": "worker", "index": 0}}\n'
            "Set it in every process, each with its own index."
        ) from error
    if not workers:
        raise UsageError("TF_CONFIG names no workers; it must have at least one.")
    task = cluster_task(os.environ)
    if not task.trains:
        raise UsageError(
            f"TF_CONFIG makes this process a {task.kind!r}, which does not train.\n"
            "Start the training in its workers, and in the chief if there is one."
        )
    return tf.distribute.MultiWorkerMirroredStrategy()


@dataclass(frozen=True)
class Topology:
    """Where a run's replicas are; it may change from one start to the next."""

    strategy: str
    num_replicas: int
    worker_index: int
    num_workers: int

    @property
    def is_chief(self) -> bool:
        """Whether this process prepares data and writes files for all."""
        return self.worker_index == 0


def topology_of(strategy: Any, name: str) -> Topology:
    """Returns the topology of a strategy made by `make_strategy`."""
    worker_index, num_workers = 0, 1
    if name == "multi_worker":
        task = cluster_task(os.environ)
        worker_index, num_workers = task.index, task.count
    return Topology(name, strategy.num_replicas_in_sync, worker_index, num_workers)
