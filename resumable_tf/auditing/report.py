"""What an audit found: exact, or the first difference and its likely cause.

report = rtf.audit(train, kill_at=7, steps=20)
assert report.is_exact, report.message
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import Enum


class Cause(str, Enum):
    """Why a resumed run is not the uninterrupted one."""

    NOTHING_COMMITTED = "nothing was committed before the kill"
    FAILED = "the program failed"
    NOT_DETERMINISTIC = "the program itself is not deterministic"
    TOPOLOGY = "float order after a topology change"
    RESTORE = "the restored state is not the saved one"
    OFF_BY_ONE = "off by one batch"
    DATA = "data not repositioned"
    RANDOM = "seed state not covered"
    VARIABLE = "a variable that is not part of the state"
    VALUE = "a Python value that is not part of the state"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class AuditReport:
    """The result of an audit.

    Attributes:
        is_exact: Whether every compared tensor was equal, bit for bit.
        cause: Why not, None if exact.
        message: What was found and what to do, in one or a few sentences.
        first_step: First step after which something differs, None without.
        first_tensor: The first tensor, value or batch of it that differs.
        suspects: What lives in the process beside the state and was not put back, the
            most likely first.
        is_certain: Whether the cause was seen, and not only inferred from what differs
            afterwards.
        resumed_from: Step of the checkpoint of each resume.
        num_tensors: Values compared at a step.
        num_steps: Steps compared after a resume.
    """

    is_exact: bool
    cause: Cause | None = None
    message: str = ""
    first_step: int | None = None
    first_tensor: str | None = None
    suspects: Sequence[str] = ()
    is_certain: bool = True
    resumed_from: Sequence[int] = ()
    num_tensors: int = 0
    num_steps: int = 0
