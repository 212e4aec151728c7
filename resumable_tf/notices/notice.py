"""A notice that this machine is about to go, and the thread that asks for it.

poller = NoticePoller(MetadataNotices(client).read, every_secs=1.0)
poller.start(notify)                # notify(Notice("preempted", "...")), once
poller.stop()
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from resumable_tf.errors import NoticeError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notice:
    """Training is to save and end.

    Attributes:
        name: A word: SIGTERM, preempted, maintenance, tpu.
        detail: Who said what.
    """

    name: str
    detail: str


class NoticePoller:
    """Asks again and again, in a thread of its own, until there is a notice.

    A source that can't be read never ends a training: the first failure of a row is
    logged, and so is its end.
    """

    def __init__(
        self,
        read: Callable[[], Notice | None],
        *,
        every_secs: float,
        source: str = "the metadata server",
    ) -> None:
        """Starts nothing.

        Args:
            read: Asks once; may raise NoticeError.
            every_secs: Between two questions.
            source: Whom it asks, for the log.
        """
        self._read = read
        self._every_secs = every_secs
        self._source = source
        self._is_failing = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, notify: Callable[[Notice], None]) -> None:
        """Begins to ask; `notify` is called from the thread, once at most."""
        self._stopped.clear()
        # A question may hang for its timeout; the end of the process does not wait.
        self._thread = threading.Thread(
            target=self._poll, args=(notify,), name="notices", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Asks no more; waits for no answer."""
        self._stopped.set()
        self._thread = None

    def poll_once(self) -> Notice | None:
        """Asks once; logs what goes wrong."""
        try:
            notice = self._read()
        except NoticeError as error:
            if not self._is_failing:
                self._is_failing = True
                _log.warning(
                    "%s can't be asked for preemption: %s", self._source, error
                )
            return None
        if self._is_failing:
            self._is_failing = False
            _log.info("%s answers again", self._source)
        return notice

    def _poll(self, notify: Callable[[Notice], None]) -> None:
        stopped = self._stopped
        while not stopped.is_set():
            notice = self.poll_once()
            if notice is not None and not stopped.is_set():
                notify(notice)
                return
            stopped.wait(self._every_secs)
