"""What can be saved in the time that is left.

    choose_tier(20.0, {"durable": 41.0, "fast": 2.5})      # "fast"

Pure functions. A commit is atomic, so trying and being cut off costs nothing that was
saved before.
"""

from __future__ import annotations

from collections.abc import Mapping

GRACE_SECS = 25.0
"""A spot machine goes 30 s after its notice; the rest is for hearing of it."""

SAFETY = 1.25
"""A save is expected to take so many times as long as it took before."""


def choose_tier(grace_left_secs: float, estimates: Mapping[str, float | None]) -> str:
    """Returns where to save first: the most durable place that is reached in time.

    Args:
        grace_left_secs: Time until the process is killed.
        estimates: Seconds that a save to each place took, the most durable place
            first and the fastest last; None where nothing is known. What is not known
            is not relied on; the last place is taken when nothing is fast enough.

    Raises:
        ValueError: If there is no place.
    """
    if not estimates:
        raise ValueError("there is no tier to choose from")
    for name, secs in estimates.items():
        if secs is not None and secs * SAFETY <= grace_left_secs:
            return name
    return list(estimates)[-1]


def is_worth_a_try(grace_left_secs: float, estimate: float | None) -> bool:
    """Returns whether a save may be done in time, or nearly: being cut off is no loss.

    Args:
        grace_left_secs: Time until the process is killed.
        estimate: Seconds that such a save took; None if nothing is known.
    """
    if grace_left_secs <= 0:
        return False
    return estimate is None or estimate <= grace_left_secs * SAFETY


def describe_grace(
    grace_left_secs: float, last_save_secs: float | None, committed_step: int | None
) -> str:
    """Returns a sentence on whether a save can be done in time.

    Args:
        grace_left_secs: Time until the process is killed.
        last_save_secs: How long the last save took; None if there was none.
        committed_step: Step of the newest checkpoint, None without one.
    """
    left = f"{max(grace_left_secs, 0.0):.1f} s left"
    if last_save_secs is None:
        return f"{left}; how long a save takes is not known yet"
    took = f"{left}; the last save took {last_save_secs:.1f} s"
    if last_save_secs * SAFETY <= grace_left_secs:
        return took
    stands = "none" if committed_step is None else f"step {committed_step}"
    return (
        f"{took}, so this one may be cut off; the last checkpoint then stays: {stands}"
    )
