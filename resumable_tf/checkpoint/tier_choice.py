"""Which checkpoint of which tier to restore: a pure rule.

    choose(fast=[1190, 1200], durable={1000: "3f..."}, known={"3f..."})
    # fast 1200, fast 1190, durable 1000

The newest of all, as long as both tiers tell one history. They do if the fast tier
knows the newest durable checkpoint: its own writers have committed it, or have begun
from it. A durable checkpoint that it does not know was written elsewhere, perhaps with
another batch size: then the run has gone on without this fast tier, and what is in it
is of a life that the run has left behind, however high its steps are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

FAST, DURABLE = "fast", "durable"


@dataclasses.dataclass(frozen=True)
class Place:
    """One checkpoint in one tier.

    Attributes:
        tier: `FAST` or `DURABLE`.
        step: Completed steps.
    """

    tier: str
    step: int


def is_continued_elsewhere(durable: Mapping[int, str], known: Collection[str]) -> bool:
    """Returns whether the durable tier holds what the fast one has never seen.

    Args:
        durable: Digest of each committed checkpoint of the durable tier, by step.
        known: Digests that the fast tier knows.
    """
    return bool(durable) and durable[max(durable)] not in known


def choose(
    *,
    fast: Collection[int],
    durable: Mapping[int, str],
    known: Collection[str],
    superseded: Collection[str] = (),
) -> list[Place]:
    """Returns the checkpoints that may be restored, best first.

    Of equal steps the fast one is first: it is read sooner, and if they differ it is
    the newer one. Durable checkpoints that a committed fast save has superseded come
    last: they count again when the fast tier has nothing that verifies.

    Args:
        fast: Committed steps of the fast tier.
        durable: Digest of each committed checkpoint of the durable tier, by step.
        known: Digests of durable checkpoints that the fast tier's writers have
            committed, were about to commit, or have seen when they began.
        superseded: Digests of durable checkpoints that were newer than the one that
            a writer of the fast tier has gone on from.
    """
    if is_continued_elsewhere(durable, {*known, *superseded}):
        fast = ()
    ranked = [(1, step, 1, Place(FAST, step)) for step in fast]
    for step, digest in durable.items():
        counts = not fast or digest not in superseded
        ranked.append((int(counts), step, 0, Place(DURABLE, step)))
    return [place for *_, place in sorted(ranked, key=lambda r: r[:3], reverse=True)]
