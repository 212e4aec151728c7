"""Finds the largest size that fits, with few attempts, each of them expensive.

    largest = find_largest(attempt, start=8, most=1024, limit=16 * 2**30)

Memory grows about linearly with the batch, so the line through the two largest good
sizes says where to try next. Near the limit compilers give up speed for memory and the
line misleads, so every second attempt halves the interval instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

_MAX_GROWTH = 8


class Attempt(NamedTuple):
    """How one size went.

    Attributes:
        fits: Whether it does.
        needed: What it needs, if that is known.
        is_final: Whether it fails for another reason than its size, so that no other
            need be tried.
    """

    fits: bool
    needed: float | None
    is_final: bool = False


def find_largest(
    attempt: Callable[[int], Attempt], *, start: int, most: int, limit: float
) -> int:
    """Returns the largest size that fits, up to `most`; 1 if none does.

    For a need that grows with the size, the result fits and the next size does not.

    Args:
        attempt: Tries a size; never called twice for one.
        start: The first to try.
        most: The largest to try.
        limit: What there is of what `Attempt.needed` counts.
    """
    good: dict[int, float | None] = {}
    largest, too_large = 0, most + 1
    size, is_line = min(max(start, 1), most), True
    while too_large - largest > 1:
        tried = attempt(size)
        if tried.is_final:
            return size
        if tried.fits:
            good[size] = tried.needed
            largest = size
        else:
            too_large = size
        is_open = too_large > most
        is_line = is_open or not is_line
        guess = _on_line(good, limit) if is_line else None
        if guess is None:
            guess = 2 * largest if is_open else (largest + too_large) // 2
        top = min(too_large - 1, _MAX_GROWTH * largest) if is_open else too_large - 1
        size = min(max(guess, largest + 1), top)
    return max(largest, 1)


def _on_line(good: dict[int, float | None], limit: float) -> int | None:
    """Returns the size at which the line through the two largest meets the limit."""
    points = sorted((s, need) for s, need in good.items() if need is not None)[-2:]
    if len(points) < 2:
        return None
    (low, low_need), (high, high_need) = points
    slope = (high_need - low_need) / (high - low)
    return int(high + (limit - high_need) / slope) if slope > 0 else None
