"""Runs the real training script on the workers of a `Pod`, as it would on a TPU pod.

    python -m helpers.pod_training --strategy tpu --tpu grpc://HOST:PORT,... <flags>

Resolver, connection, per-host input, checkpoints and errors are the library's own.
Only what needs chips is replaced: in the place of initialising a TPU and `TPUStrategy`
stands a MirroredStrategy over the workers' CPUs.
"""

from __future__ import annotations

from typing import Any

from helpers.train_and_die import load_script, train


def strategy_over_hosts(resolver: Any, settings: Any) -> Any:
    """Returns a strategy over the devices of all hosts, driven by this process.

    MirroredStrategy refuses devices of several hosts when it is made eagerly, and only
    then. TPUStrategy is of the same kind: a copy of each variable on each device, one
    program for all, reductions between them.
    """
    import tensorflow as tf

    del resolver, settings
    # It would make one AddN of the sums in a replica and the sum over replicas. AddN
    # begins with whichever of its buffers it may overwrite, and what is being sent to
    # another host it may not: with three terms and more the order, and so the last
    # bits, would depend on time. A TPU's replicas reduce within one compiled program.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    devices = [
        device.name
        for device in tf.config.list_logical_devices("CPU")
        if "/job:worker" in device.name
    ]
    with tf.Graph().as_default():
        return tf.distribute.MirroredStrategy(
            devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
        )


def main() -> None:
    script = load_script()
    from resumable_tf.tpu import cluster

    cluster.initialise = strategy_over_hosts
    train(script)


if __name__ == "__main__":
    main()
