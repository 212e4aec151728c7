"""Tells whether this process is being audited.

    recorder = active_recorder()
    if recorder is not None:
        recorder.end_step(state)

The audit sets an environment variable for the processes that it starts; in all others
the answer is None, and TensorFlow is not touched.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resumable_tf.auditing.recorder import Recorder

RUN_DIR_VARIABLE = "RESUMABLE_TF_RUN_DIR"
"""Environment variable with the run directory that an audited program must use."""

PLAN_VARIABLE = "RESUMABLE_TF_AUDIT_PLAN"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an audited process does.

    Attributes:
        log: File to append to.
        run_dir: The only run directory that it may use.
        stop_at: Completed steps after which it ends.
        kill_at: Completed steps after which it kills itself, None not.
    """

    log: str
    run_dir: str
    stop_at: int
    kill_at: int | None = None

    def to_environment(self) -> dict[str, str]:
        """Returns the variables that make a process follow this plan."""
        return {
            PLAN_VARIABLE: json.dumps(dataclasses.asdict(self)),
            RUN_DIR_VARIABLE: self.run_dir,
        }


@functools.cache
def active_recorder() -> Recorder | None:
    """Returns the recorder of this process, None unless it is being audited."""
    # Taken out, so that processes which the program starts are not audited.
    plan = os.environ.pop(PLAN_VARIABLE, None)
    if plan is None:
        return None
    from resumable_tf.auditing.recorder import Recorder

    return Recorder(Plan(**json.loads(plan)))
