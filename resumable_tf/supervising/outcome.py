"""How a supervised training ended for good, where others can read it.

    file = OutcomeFile("gs://bucket/demo/job/outcome.json")
    file.clear()                            # before the first start
    events = Events(file)                   # writes the file with the event "stopped"

    outcome = read_outcome(open_storage("gs://bucket/demo"), "job/outcome.json")

A machine that is paid for does not say itself that nothing runs on it any more. An end
after which a start would help (1, 69, 75) leaves no file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from resumable_tf.errors import (
    EXIT_CRASH_LOOP,
    EXIT_FINISHED,
    EXIT_USAGE,
    UsageError,
)
from resumable_tf.storage import Storage, open_storage

_FINAL = (EXIT_FINISHED, EXIT_USAGE, EXIT_CRASH_LOOP)


@dataclass(frozen=True)
class Outcome:
    """An end for good.

    Attributes:
        exit_code: Of the supervisor: 0, 2 or 70.
        reason: Why, in words.
        time: When, in seconds since 1970.
    """

    exit_code: int
    reason: str
    time: float

    @property
    def is_finished(self) -> bool:
        """Whether training has reached its last step."""
        return self.exit_code == EXIT_FINISHED


class OutcomeFile:
    """Takes the lines of `Events`, and keeps the one that tells of an end for good."""

    def __init__(self, path: str) -> None:
        """Keeps where to write.

        Args:
            path: The file, a path or URL.

        Raises:
            UsageError: If it names no file.
        """
        directory, _, self._name = path.rpartition("/")
        if not self._name:
            raise UsageError(f"--outcome {path!r} names no file; add one.")
        root = "/" if path.startswith("/") else "."
        self._storage = open_storage(directory or root)

    def clear(self) -> None:
        """Removes what an earlier supervisor has left: training goes on."""
        self._storage.delete(self._name)

    def __call__(self, line: str) -> None:
        """Writes the line if it says that training has ended for good."""
        event = json.loads(line)
        if event["event"] == "stopped" and event["exit_code"] in _FINAL:
            self._storage.write_bytes(self._name, f"{line}\n".encode())


def read_outcome(storage: Storage, name: str) -> Outcome | None:
    """Returns how training ended for good; None if it has not, as far as is known.

    Args:
        storage: Where the file is.
        name: Of the file.

    Raises:
        UsageError: If it can't be read.
    """
    try:
        data = storage.read_bytes(name)
    except FileNotFoundError:
        return None
    try:
        event = json.loads(data)
        return Outcome(
            int(event["exit_code"]), str(event["reason"]), float(event["time"])
        )
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{storage.locate(name)} can't be read ({error}); expected what "
            "`resumable-tf run --outcome` writes. Remove it."
        ) from error
