"""Ends a process that waits for a host which is gone.

    watch_hosts(["10.0.0.2:8470", "10.0.0.3:8470"])

A step that was sent to a host which then dies mostly fails, but TensorFlow may also
wait for its answer for ever: on a pod it sends no heartbeats, and a save waits for all
steps under way, answered or not. So a thread knocks at every host's port. When one is
gone, training gets some time to end by itself; then the process ends with exit code 69.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from resumable_tf.errors import EXIT_UNAVAILABLE

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WatchSettings:
    """How patient the watch is.

    Attributes:
        every_secs: Time between two knocks at a host.
        timeout_secs: Time in which a host must answer a knock.
        num_misses: Unanswered knocks in a row after which a host is gone.
        grace_secs: Time for training to end by itself.
    """

    every_secs: float = 2.0
    timeout_secs: float = 5.0
    num_misses: int = 3
    grace_secs: float = 30.0


def answers(address: str, timeout_secs: float) -> bool:
    """Returns whether somebody accepts connections there.

    Args:
        address: `HOST:PORT`.
        timeout_secs: How long to wait.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout_secs).close()
    except OSError:
        return False
    return True


def watch_hosts(
    addresses: Sequence[str], settings: WatchSettings | None = None
) -> None:
    """Starts the watch in a thread that does not keep the process alive.

    Args:
        addresses: `HOST:PORT` of each host.
        settings: How patient it is; the defaults if None.
    """
    settings = settings or WatchSettings()

    def run() -> None:
        lost = wait_for_loss(addresses, settings)
        _log.error(
            "lost host %s of this training; ending in %.0f s at the latest. Start the "
            "processes of all hosts again with the same command",
            *(lost, settings.grace_secs),
        )
        time.sleep(settings.grace_secs)
        # The main thread waits inside TensorFlow, where no exception reaches it.
        os._exit(EXIT_UNAVAILABLE)

    threading.Thread(target=run, name="host-watch", daemon=True).start()


def wait_for_loss(
    addresses: Sequence[str],
    settings: WatchSettings,
    *,
    knock: Callable[[str, float], bool] = answers,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Waits until a host is gone; returns its address.

    Args:
        addresses: `HOST:PORT` of each host.
        settings: How patient it is.
        knock: Tells whether a host answers within a time.
        sleep: Waits.
    """
    misses = dict.fromkeys(addresses, 0)
    while True:
        for address in addresses:
            is_there = knock(address, settings.timeout_secs)
            misses[address] = 0 if is_there else misses[address] + 1
            if misses[address] >= settings.num_misses:
                return address
        sleep(settings.every_secs)
