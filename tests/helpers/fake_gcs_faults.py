"""What goes wrong in a fake Google Cloud Storage, and when.

    plan = FaultPlan()
    plan.add(Fault("status", match="POST /upload", status=503, times=2))
    plan.add(Fault("reset-after", match="alt=media"))     # the reply is lost

Kinds:

    status          the answer is `status`; nothing happens
    status-after    the same, but the request had its effect
    reset           the connection is reset; nothing happens
    reset-after     the same, but the request had its effect: a lost acknowledgement
    truncate        the answer ends in the middle of its body
    slow            the answer begins after `secs`, and its body trickles
    stale           a listing is that of `changes` changes ago
    short           a chunk of a resumable upload is kept in part
"""

from __future__ import annotations

import dataclasses
import re
import threading

KINDS = (
    "status",
    "status-after",
    "reset",
    "reset-after",
    "truncate",
    "slow",
    "stale",
    "short",
)


@dataclasses.dataclass
class Fault:
    """One fault.

    Attributes:
        kind: See the module.
        match: Regular expression searched in "METHOD path?query".
        skip: How many matching requests are served well first.
        times: How many are hit after that.
        status: For the kinds of "status".
        secs: For "slow".
        changes: For "stale".
    """

    kind: str
    match: str = ""
    skip: int = 0
    times: int = 1
    status: int = 503
    secs: float = 0.3
    changes: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is none of {KINDS}")


class FaultPlan:
    """The faults to come, and a log of all requests; used from all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self.log: list[str] = []
        self.num_injected = 0

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Forgets faults and log."""
        with self._lock:
            self._faults.clear()
            self.log.clear()
            self.num_injected = 0

    def next(self, request: str) -> Fault | None:
        """Logs a request; returns the fault that hits it, if any."""
        with self._lock:
            hit = self._find(request)
            self.log.append(f"{request} !{hit.kind}" if hit else request)
            self.num_injected += hit is not None
            return hit

    def count(self, pattern: str) -> int:
        """Returns how many requests of the log match."""
        with self._lock:
            return sum(re.search(pattern, line) is not None for line in self.log)

    def _find(self, request: str) -> Fault | None:
        for fault in self._faults:
            if fault.times < 1 or not re.search(fault.match, request):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            fault.times -= 1
            return fault
        return None
