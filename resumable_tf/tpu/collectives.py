"""Reads the operations between replicas, and their bytes, out of optimized HLO.

collectives = parse_collectives(hlo_text)
collectives["all-reduce"].num_operations, collectives["all-reduce"].size_bytes
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# `%name = SHAPE all-reduce(...)`; an asynchronous one is a start and a done.
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_BITS_PER_BYTE = 8


@dataclass(frozen=True)
class Collective:
    """All operations of one kind in a program.

    Attributes:
        num_operations: How many there are.
        size_bytes: Of their results, on one device.
    """

    num_operations: int
    size_bytes: int


def parse_collectives(hlo: str) -> dict[str, Collective]:
    """Returns the collectives of a program by kind.

    Args:
        hlo: Text of an optimized HLO module.
    """
    found: dict[str, Collective] = {}
    for line in hlo.splitlines():
        match = _OPERATION.search(line)
        if match is None:
            continue
        shape, kind, is_start = match[1], match[2], match[3] is not None
        sizes = _array_sizes(shape)
        # The start of most kinds gives back its operands in front of its results.
        if is_start and kind != "all-reduce":
            sizes = sizes[len(_operands(line, match.end())) :]
        before = found.get(kind, Collective(0, 0))
        found[kind] = Collective(
            before.num_operations + 1, before.size_bytes + sum(sizes)
        )
    return found


def _array_sizes(shape: str) -> list[int]:
    """Returns the bytes of each array in an HLO shape, which may be a tuple."""
    sizes = []
    for name, bits, axes in _ARRAY.findall(shape):
        num_bits = _BITS_PER_BYTE if name == "pred" else int(bits)
        num_values = math.prod(int(axis) for axis in axes.split(",") if axis)
        sizes.append(-(-num_values * num_bits // _BITS_PER_BYTE))
    return sizes


def _operands(line: str, start: int) -> list[str]:
    """Returns the operands of an operation whose parenthesis opens before `start`."""
    depth, end = 1, start
    while depth and end < len(line):
        depth += {"(": 1, ")": -1}.get(line[end], 0)
        end += 1
    return re.findall(r"%[\w.-]+", line[start:end])
