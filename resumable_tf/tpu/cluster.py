"""A TPU as a strategy: find it, connect, initialise.

    strategy = make_tpu_strategy(TpuSettings(name="local"))

One process drives all chips, of one host or of a pod; on a pod it runs on worker 0 and
TensorFlow's gRPC workers answer on every host.
"""

from __future__ import annotations

import logging
from typing import Any

import tensorflow as tf

from resumable_tf.errors import DeviceError
from resumable_tf.tpu.host_watch import answers, watch_hosts
from resumable_tf.tpu.machine import (
    TpuSettings,
    check_machine,
    find_machine,
    prepare_environment,
)

_CONNECT_TIMEOUT_SECS = 10.0
_JOB = "worker"
_log = logging.getLogger(__name__)


def make_tpu_strategy(settings: TpuSettings) -> Any:
    """Returns a `TPUStrategy` over all chips of a TPU.

    Args:
        settings: Which TPU.

    Raises:
        DeviceError: If it is not there, can't be reached or can't be initialised.
    """
    prepare_environment(settings)
    check_machine(settings, find_machine())
    resolver = resolve(settings)
    connect(resolver)
    return initialise(resolver, settings)


def resolve(settings: TpuSettings) -> Any:
    """Returns the resolver that knows the addresses of a TPU's workers.

    Args:
        settings: Which TPU.

    Raises:
        DeviceError: If Cloud TPU's API or the metadata server do not know it.
    """
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=settings.name, zone=settings.zone, project=settings.project
        )
        if not settings.is_local:
            resolver.cluster_spec()
    except Exception as error:
        # Also those of oauth2client, googleapiclient and httplib2, which are plain
        # exceptions of packages that need not be installed.
        raise DeviceError(
            f"--tpu {settings.name}: its addresses can't be found: "
            f"{type(error).__name__}: {error}\n"
            f"  zone: {settings.zone or 'of this machine'}, project: "
            f"{settings.project or 'of this machine'}\n"
            "Check the name, --tpu-zone and --gcp-project, or name the workers: "
            "--tpu grpc://HOST:8470,..."
        ) from error
    return resolver


def connect(resolver: Any) -> None:
    """Connects this process to the workers of a cluster, if it is not its own.

    From then on the process ends with exit code 69 some time after one of them is gone,
    unless it has ended by itself.

    Args:
        resolver: Any cluster resolver.

    Raises:
        DeviceError: If a worker does not answer.
    """
    addresses = resolver.cluster_spec().as_dict().get(_JOB, [])
    # TensorFlow would wait for one that is not there, without a word.
    silent = [
        address for address in addresses if not answers(address, _CONNECT_TIMEOUT_SECS)
    ]
    if silent:
        raise DeviceError(
            f"{len(silent)} of {len(addresses)} TPU workers do not answer within "
            f"{_CONNECT_TIMEOUT_SECS:g} s: {', '.join(silent)}.\n"
            "Is TensorFlow's worker running on every host of the pod, and does the "
            "firewall let worker 0 reach it?"
        )
    if addresses:
        _log.info("connecting to %d hosts: %s", len(addresses), ", ".join(addresses))
        tf.config.experimental_connect_to_cluster(resolver)
        watch_hosts(addresses)


def initialise(resolver: Any, settings: TpuSettings) -> Any:
    """Initialises the chips; what was on them is lost.

    Args:
        resolver: Of the TPU, connected.
        settings: Which TPU it is, for messages.

    Returns:
        A `TPUStrategy`.

    Raises:
        DeviceError: If there are no chips, or another process uses them.
    """
    try:
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, RuntimeError, ValueError, IndexError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise DeviceError(
            f"--tpu {settings.name}: the TPU can't be initialised: "
            f"{type(error).__name__}: {first_line}\n"
            f"{find_machine().describe()}\n"
            "Is the TPU in use by another process, and are these the hosts of a TPU?"
        ) from error
    _log.info("TPU with %d replicas", strategy.num_replicas_in_sync)
    return strategy
