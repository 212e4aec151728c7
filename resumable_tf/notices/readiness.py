"""Waits until a TPU node can be used.

wait = ReadinessWait(node.status, tell=print, timeout_secs=3600.0)
wait(lambda: False)           # True when it is ready, False when it is gone
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from resumable_tf.errors import NoticeError
from resumable_tf.notices.metadata import PREEMPTED, MetadataClient, parse_preempted
from resumable_tf.notices.tpu_node import NodeKind, NodeStatus

Status = NodeStatus | NoticeError
_SLICE_SECS = 0.2
_log = logging.getLogger(__name__)


def going_machine(client: MetadataClient) -> str | None:
    """Returns that this machine is being preempted, None if it is not.

    A metadata server that can't be asked keeps nothing from being started.
    """
    try:
        is_preempted = parse_preempted(*client.get(PREEMPTED))
    except NoticeError as error:
        _log.warning("the metadata server can't be asked for preemption: %s", error)
        return None
    return "this machine is being preempted" if is_preempted else None


class ReadinessWait:
    """Asks for a node's state until it is ready, gone, or the time is up."""

    def __init__(
        self,
        read: Callable[[], NodeStatus],
        *,
        tell: Callable[[Status], None],
        timeout_secs: float,
        every_secs: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Asks nothing yet.

        Args:
            read: Returns the state now; may raise NoticeError.
            tell: Gets each state that differs from the one before.
            timeout_secs: How long to wait; the API's failures count as waiting.
            every_secs: Between two questions.
            clock: Seconds.
            sleep: Waits.
        """
        self._read = read
        self._tell = tell
        self._timeout_secs = timeout_secs
        self._every_secs = every_secs
        self._clock = clock
        self._sleep = sleep

    def __call__(self, is_stopping: Callable[[], bool]) -> str | None:
        """Returns why the node can't be used, None if it can.

        Args:
            is_stopping: Ends the wait.
        """
        ends = self._clock() + self._timeout_secs
        last: str | None = None
        while not is_stopping():
            status = self._status()
            if last != (last := repr(status)):
                self._tell(status)
            if isinstance(status, NodeStatus):
                if status.kind is NodeKind.READY:
                    return None
                if status.kind is NodeKind.GONE:
                    return f"the TPU node is {status.state}: {status.detail}"
            if self._clock() >= ends:
                return f"the TPU node was not ready in {self._timeout_secs:g} s"
            self._pause(is_stopping)
        return "asked to stop"

    def _status(self) -> Status:
        try:
            return self._read()
        except NoticeError as error:
            return error

    def _pause(self, is_stopping: Callable[[], bool]) -> None:
        ends = self._clock() + self._every_secs
        while not is_stopping() and (left := ends - self._clock()) > 0:
            self._sleep(min(left, _SLICE_SECS))
