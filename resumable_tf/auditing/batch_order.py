"""Where in the order of batches a resumed run went on.

shift = find_shift(all_batches, read_after_resume, num_done)
shift.found, shift.expected, shift.is_off_by_one
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

_NUM_COMPARED = 3


@dataclasses.dataclass(frozen=True)
class BatchShift:
    """A resumed run that does not read the batch that comes next.

    Attributes:
        expected: Place of the next batch in the uninterrupted run.
        found: Place of the batch that was read, None if it is at none.
    """

    expected: int
    found: int | None

    @property
    def is_off_by_one(self) -> bool:
        """Whether one batch was left out or read twice."""
        return self.found is not None and abs(self.found - self.expected) == 1


def find_shift(
    batches: Sequence[str], read: Sequence[str], num_done: int
) -> BatchShift | None:
    """Returns where a resumed run went on, None if at the right place.

    Args:
        batches: Hashes of all batches of the uninterrupted run.
        read: Those read since the resume.
        num_done: Batches that were done at the checkpoint.
    """
    expected = list(batches[num_done : num_done + len(read)])
    if expected == list(read)[: len(expected)]:
        return None
    some = list(read[:_NUM_COMPARED])
    places = [
        place
        for place in range(len(batches) - len(some) + 1)
        if list(batches[place : place + len(some)]) == some
    ]
    # One that begins anew is the likeliest of several.
    return BatchShift(num_done, places[0] if places else None)
