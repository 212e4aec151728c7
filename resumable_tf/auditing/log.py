"""What an audited process writes: one line a training step, a hash for each value.

    append("whole.jsonl", Record(kind=STEP, step=7, state={"model/...": "3f09..."}))
    for record in read_log("whole.jsonl"):
        record.step, record.state

Needs no TensorFlow: the audit's own process reads it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

START, RESTORED, STEP = "start", "restored", "step"
BATCH, EPOCH = "batch", "epoch"

RANDOM, VARIABLE, VALUE, ARRAY = "random", "variable", "value", "array"
"""Kinds of values that live beside the state."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What a process was after one step.

    Attributes:
        kind: `START` (nothing was there to restore), `RESTORED` or `STEP`.
        step: Completed training steps.
        phase: `BATCH`, or `EPOCH` for a second record after `fit` ended an epoch.
        state: Hash of each value of the training state, by its key.
        labels: Readable names of keys that no record before has named.
        live: Kind and hash of each value beside the state, by a readable name.
        batches: Hashes of the batches read since the record before.
        num_replicas: Replicas of the state's variables.
    """

    kind: str
    step: int
    phase: str = BATCH
    state: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    live: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    batches: Sequence[str] = ()
    num_replicas: int = 1


def append(path: str | Path, record: Record) -> None:
    """Writes one line; a SIGKILL afterwards does not lose it."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(record)) + "\n")


def read_log(path: str | Path) -> list[Record]:
    """Returns the records of one process; [] if it wrote none.

    Args:
        path: The file; a last line that was cut off is left out.
    """
    if not Path(path).exists():
        return []
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    # Whatever stands behind the last line end was not finished.
    found: list[dict[str, Any]] = [json.loads(line) for line in lines[:-1]]
    return [Record(**values) for values in found]
