"""What became of a job: its TPU, its newest checkpoint, and how it ended.

status = read_status(settings, gcloud, open_storage(settings.run_dir))
for line in status.lines(now=time.time()):
    ...
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resumable_tf.checkpoint.catalog import Catalog
from resumable_tf.errors import NoCheckpointError
from resumable_tf.storage import Storage
from resumable_tf.supervising.outcome import Outcome, read_outcome
from resumable_tf.tpu.gcloud import Gcloud
from resumable_tf.tpu.jobs import OUTCOME, JobSettings, describe_commands

SETTINGS_FILE = "job/job.json"
"""Below the run directory; a job is known as long as it is there."""
OUTCOME_FILE = f"job/{OUTCOME}"
"""Below the run directory; there from training's end on, until it goes on."""
# States of the API's Node and QueuedResource in which nothing will run any more.
_LOST_NODES = {"PREEMPTED", "TERMINATED"}
_LOST_REQUESTS = {"SUSPENDED", "SUSPENDING", "FAILED"}


@dataclass(frozen=True)
class JobStatus:
    """What was found.

    Attributes:
        node: State of the node, None if there is none.
        health: Its health, "" if unknown.
        request: State of the queued resource, None if there is none.
        is_queued: Whether the job uses queued resources.
        step: Newest committed step, None if there is none.
        saved: When it was saved, in seconds since 1970.
        outcome: How training has ended for good; None if it has not.
    """

    node: str | None
    health: str
    request: str | None
    is_queued: bool
    step: int | None
    saved: float | None
    outcome: Outcome | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the TPU was taken away, so that only `recreate` goes on."""
        if self.is_queued and self.request is None:
            return True
        if self.request in _LOST_REQUESTS or self.node in _LOST_NODES:
            return True
        return not self.is_queued and self.node is None

    def lines(self, *, now: float) -> list[str]:
        """Returns the status as text."""
        lines = []
        if self.is_queued:
            lines.append(f"queued resource  {self.request or 'not there'}")
        health = f", {self.health}" if self.health else ""
        lines.append(f"node             {self.node or 'not there'}{health}")
        if self.step is None or self.saved is None:
            lines.append("last checkpoint  none yet")
        else:
            ago = _ago(self.saved, now)
            lines.append(f"last checkpoint  step {self.step}, saved {ago}")
        if self.outcome is not None:
            reason, ago = self.outcome.reason, _ago(self.outcome.time, now)
            lines.append(f"training         {reason}, {ago}")
            lines.append(self._after_the_end(self.outcome))
        elif self.is_lost:
            lines.append("the TPU is gone: `recreate` goes on from there")
        return lines

    def _after_the_end(self, outcome: Outcome) -> str:
        """Returns what to do once training has ended for good."""
        paid = "" if self.is_lost else "the TPU is still paid for: "
        if outcome.is_finished:
            return f"{paid}`delete` gives it back"
        look = "" if self.is_lost else "`logs` shows why, "
        return f"{paid}{look}`recreate` tries again, `delete` gives it back"


def read_status(settings: JobSettings, gcloud: Gcloud, storage: Storage) -> JobStatus:
    """Asks Google and reads the run directory; changes nothing.

    Args:
        settings: The job.
        gcloud: Asks for the node and the queued resource.
        storage: The run directory.

    Raises:
        CloudError: If `gcloud` fails.
        UsageError: If the outcome can't be read.
    """
    describe_node, describe_request = describe_commands(settings)
    node = gcloud.describe(describe_node)
    request = None if describe_request is None else gcloud.describe(describe_request)
    latest = Catalog(storage).latest()
    return JobStatus(
        node=_state_of(node),
        health=str((node or {}).get("health", "")),
        request=_state_of((request or {}).get("state")),
        is_queued=settings.is_queued,
        step=None if latest is None else latest.step,
        saved=None if latest is None else latest.manifest.time,
        outcome=read_outcome(storage, OUTCOME_FILE),
    )


def read_settings(storage: Storage) -> JobSettings:
    """Returns the settings that `create` left in a run directory.

    Raises:
        NoCheckpointError: If there are none.
        UsageError: If they can't be read.
    """
    try:
        data = storage.read_bytes(SETTINGS_FILE)
    except FileNotFoundError as error:
        raise NoCheckpointError(
            f"{storage.locate(SETTINGS_FILE)} is not there: no job was created with "
            "this run directory, or it was deleted.\nUse `create`, or the --run-dir "
            "that it was given."
        ) from error
    return JobSettings.from_json(data, path=storage.locate(SETTINGS_FILE))


def _ago(time: float, now: float) -> str:
    return f"{datetime.timedelta(seconds=max(0, round(now - time)))} ago"


def _state_of(answer: Mapping[str, Any] | None) -> str | None:
    return None if not answer else str(answer.get("state", "UNKNOWN"))
