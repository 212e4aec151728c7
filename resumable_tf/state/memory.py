"""Arrays that are views of one memory.

    shared_memory([view], [array])      # "an array of shape (3,) shares its memory ..."

A view that training makes of an array sees each later change of it; two arrays made of
bytes don't. Such a pair has no exact form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def shared_memory(made: Sequence[Array], held: Sequence[Array]) -> str | None:
    """Returns a line on an array that shares memory with another, None without.

    Args:
        made: Arrays that training has made.
        held: Those that were there; they may share among themselves.
    """
    spans = sorted(
        (*_span(array), is_made, index)
        for arrays, is_made in ((made, True), (held, False))
        for index, array in enumerate(arrays)
        if array.size
    )
    end, last = -1, None
    for begin, until, is_made, index in spans:
        now = (made if is_made else held)[index]
        if last is not None and begin < end and (is_made or last[1]):
            writeable = now.flags.writeable or last[0].flags.writeable
            if writeable and np.may_share_memory(now, last[0]):
                return (
                    f"an array of shape {now.shape} is a view of one of shape "
                    f"{last[0].shape} (use .copy()), which changed"
                )
        if until > end:
            end, last = until, (now, is_made)
    return None


def _span(array: Array) -> tuple[int, int]:
    """Returns the first and the last address of an array's memory."""
    begin = end = array.__array_interface__["data"][0]
    for length, stride in zip(array.shape, array.strides, strict=True):
        step = (length - 1) * stride
        begin, end = begin + min(step, 0), end + max(step, 0)
    return begin, end + array.itemsize
