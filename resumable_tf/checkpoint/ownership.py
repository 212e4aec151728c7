"""Whose a fast tier is, and what of it the run has left behind.

owned = Ownership(durable, fast)
owned.claim()                # under both leases: from here on it is this run's
owned.record()               # what it knows; another run's is refused
newer = owned.settle(step)   # before the first save of a start
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from resumable_tf.checkpoint.fast_record import (
    FastRecord,
    check_owner,
    make_run_id,
    place_of,
    read_record,
    read_run_id,
)
from resumable_tf.checkpoint.layout import SUPERSEDED
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.checkpoint.tier_choice import is_continued_elsewhere
from resumable_tf.errors import SaveError

_NUM_SEEN = 32
"""Durable checkpoints that a start looks at; no more are damaged at once."""
_log = logging.getLogger(__name__)


class Ownership:
    """The tie between a run directory and a fast tier."""

    def __init__(self, durable: Tier, fast: Tier) -> None:
        """Remembers its arguments; nothing is read or written.

        Args:
            durable: The run directory.
            fast: The fast tier.
        """
        self._durable = durable
        self._fast = fast
        # Guards changes of the record: saves and copies both make them.
        self._lock = threading.Lock()

    def record(self) -> FastRecord | None:
        """Returns the fast tier's record, None if the tier has no checkpoint.

        Raises:
            FastTierMismatchError: If it is another run's.
        """
        if self._fast.catalog.is_empty():
            return None
        storage, durable = self._fast.storage, self._durable.storage
        record = read_record(storage)
        check_owner(record, read_run_id(durable), durable, storage)
        return record

    def claim(self) -> None:
        """Makes the fast tier this run's; one that is empty is begun anew.

        Raises:
            FastTierMismatchError: If it is another run's.
        """
        if self.record() is not None:
            return
        durable, fast = self._durable.storage, self._fast.storage
        run_id, found = make_run_id(durable), read_record(fast)
        if found is None or not found.is_of(run_id, durable):
            strange = tuple(self._fast.catalog.quarantined())
            FastRecord(run_id, place_of(durable), strange=strange).write(fast)

    def quarantined(self) -> list[str]:
        """Returns the names of this run's files in the fast tier's quarantine."""
        record, durable = read_record(self._fast.storage), self._durable.storage
        if record is None or not record.is_of(read_run_id(durable), durable):
            return []
        names = self._fast.catalog.quarantined()
        return [name for name in names if name not in record.strange]

    def update(self, change: Callable[[FastRecord], FastRecord]) -> None:
        """Changes the fast tier's record.

        Raises:
            SaveError: If it is gone.
        """
        with self._lock:
            record = read_record(self._fast.storage)
            if record is None:
                raise SaveError(f"{self._fast.storage.root} was deleted while in use")
            changed = change(record)
            if changed != record:
                changed.write(self._fast.storage)

    def settle(self, step: int) -> list[str]:
        """Makes the fast tier fit what this start goes on from, before its first save.

        What is of a life that the run has left behind is deleted, and what the durable
        tier has is known from here on; what is newer there than `step` goes out of the
        way, since training goes on from an earlier step. It stays if nothing else would
        be left there: the fast tier may be lost before the next copy.

        Returns:
            The digests of those.
        """
        steps = self._durable.catalog.steps()[-_NUM_SEEN:]
        found = {step: self._durable.catalog.digest_or_none(step) for step in steps}
        digests = {step: one for step, one in found.items() if one is not None}
        record = read_record(self._fast.storage)
        seen = {*record.known, *record.superseded} if record is not None else set()
        if is_continued_elsewhere(digests, seen):
            left_behind = self._fast.catalog.steps()
            if left_behind:
                _log.warning(
                    "deleting checkpoints %s of %s: the run has gone on elsewhere",
                    *(left_behind, self._fast.storage.root),
                )
            self._fast.catalog.delete(left_behind)
            self._fast.catalog.drop_superseded(None)
        self.update(lambda record: record.knowing(*digests.values()))
        newer = [other for other in steps if other > step]
        for other in newer if newer != self._durable.catalog.steps() else ():
            self._durable.catalog.set_aside(other, SUPERSEDED)
        return [digests[other] for other in newer if other in digests]
