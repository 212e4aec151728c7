"""Which of the values beside the state explain that a resumed run differs.

    noise = noisy_names(first_process, whole)
    suspects(base, restored, first, first_of_whole, noise=noise)

A value that was not put back differs right after the restore, and mostly after the next
step too; a buffer that was emptied by then differs no more.
One that differs between two runs that nothing interrupted (a clock, a process id) says
nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from resumable_tf.auditing.log import ARRAY, RANDOM, VALUE, VARIABLE, Record

_RANKS = (RANDOM, VALUE, VARIABLE, ARRAY)


@dataclasses.dataclass(frozen=True)
class Suspect:
    """One value that lives beside the state.

    Attributes:
        name: How the user finds it.
        kind: What it is.
        was_lost: Whether it differs right after the restore already.
    """

    name: str
    kind: str
    was_lost: bool


def differing(one: Record, other: Record) -> dict[str, str]:
    """Returns name and kind of what both have beside the state, and not alike."""
    return {
        name: token[0]
        for name, token in one.live.items()
        if name in other.live and list(other.live[name]) != list(token)
    }


def noisy_names(pairs: Sequence[tuple[Record, Record]]) -> set[str]:
    """Returns what differs between two runs before either was interrupted.

    Args:
        pairs: Records of the same steps.
    """
    return {name for one, other in pairs for name in differing(one, other)}


def suspects(
    *,
    at_restore: Mapping[str, str],
    after_step: Mapping[str, str],
    noise: Collection[str] = (),
) -> list[Suspect]:
    """Returns what may explain a difference, the most likely first.

    Args:
        at_restore: What differs right after the restore.
        after_step: What differs after the first step that differs.
        noise: Names that say nothing.
    """
    found = [
        Suspect(name, kind, was_lost=name in at_restore)
        for name, kind in {**after_step, **at_restore}.items()
        if name not in noise
    ]

    def rank(suspect: Suspect) -> tuple[bool, bool, int, bool]:
        return (
            not suspect.was_lost,
            suspect.name not in after_step,
            _RANKS.index(suspect.kind),
            # What a program may own comes before what belongs to everybody.
            suspect.name.startswith("the global generator"),
        )

    return sorted(found, key=rank)
