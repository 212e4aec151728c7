"""Waits until a TPU node can be used.

wait = ReadinessWait(node.status, tell=print, timeout_secs=3600.0)
wait(lambda: False)           # True when it is ready, False when it is gone
"""

from __future__ import annotations

import time
from collections.abc import Callable

from resumable_tf.errors import NoticeError
from resumable_tf.notices.tpu_node import NodeKind, NodeStatus

Status = NodeStatus | NoticeError
_SLICE_SECS = 0.2


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

    def __call__(self, is_stopping: Callable[[], bool]) -> bool:
        """Returns whether the node can be used; False also if asked to stop."""
        ends = self._clock() + self._timeout_secs
        last: str | None = None
        while not is_stopping():
            status = self._status()
            if last != (last := repr(status)):
                self._tell(status)
            if isinstance(status, NodeStatus):
                if status.kind is NodeKind.READY:
                    return True
                if status.kind is NodeKind.GONE:
                    return False
            if self._clock() >= ends:
                return False
            self._pause(is_stopping)
        return False

    def _status(self) -> Status:
        try:
            return self._read()
        except NoticeError as error:
            return error

    def _pause(self, is_stopping: Callable[[], bool]) -> None:
        ends = self._clock() + self._every_secs
        while not is_stopping() and (left := ends - self._clock()) > 0:
            self._sleep(min(left, _SLICE_SECS))
