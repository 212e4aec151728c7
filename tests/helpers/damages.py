"""Ways to damage a file.

    for damage in damages_of(data, others=["ckpt-2.index"], level="some"):
        damage.apply(directory, "ckpt-1.index")

Levels differ in how many places of the file are hit: "few", "some", or "all", which is
every byte of a small file and every block of a larger one.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

SMALL_BYTES = 8192
"""Every byte of such a file is hit; of a larger one, one byte of each block."""
BLOCK_BYTES = 65536
RANGE_BYTES = 16
_PLACES = {"few": 2, "some": 4}


@dataclasses.dataclass(frozen=True)
class Damage:
    """One damage.

    Attributes:
        what: For messages.
        change: Makes the new contents of the old ones; None removes the file.
        other: The file to change places with, or to be overwritten with.
        is_swap: Whether the other one changes too.
    """

    what: str
    change: Callable[[bytes], bytes] | None = None
    other: str | None = None
    is_swap: bool = False

    @property
    def removes(self) -> bool:
        """Whether the file is gone afterwards."""
        return self.change is None and self.other is None

    def apply(self, directory: Path, name: str) -> None:
        """Does it."""
        path = directory / name
        data = path.read_bytes()
        if self.other is not None:
            other = directory / self.other
            path.write_bytes(other.read_bytes())
            if self.is_swap:
                other.write_bytes(data)
        elif self.change is None:
            path.unlink()
        else:
            path.write_bytes(self.change(data))
            if path.read_bytes() == data:
                raise AssertionError(f"{self.what} changes nothing in {name}")

    def __repr__(self) -> str:
        return f"{self.what} {self.other or ''}".strip()


def damages_of(data: bytes, others: Sequence[str], *, level: str) -> Iterator[Damage]:
    """Yields the damages of a level.

    Args:
        data: The file as it is.
        others: Files of the same class, of other steps.
        level: "few", "some" or "all".
    """
    yield Damage("removed")
    yield Damage("emptied", lambda _: b"")
    yield Damage("doubled", lambda old: old + old)
    yield Damage("a byte more", lambda old: old + b"x")
    yield Damage("garbage", lambda old: random.Random(7).randbytes(len(old)))
    for place in _places(len(data), level):
        yield from _damages_at(data, place)
    for other in others:
        yield Damage("overwritten with", other=other)
        yield Damage("swapped with", other=other, is_swap=True)


def _damages_at(data: bytes, place: int) -> Iterator[Damage]:
    """Yields what can happen at one byte."""

    def put(new: bytes, length: int) -> Callable[[bytes], bytes]:
        return lambda old: old[:place] + new + old[place + length :]

    old = data[place : place + RANGE_BYTES]
    yield Damage(f"bit flipped at {place}", put(bytes([old[0] ^ 1]), 1))
    yield Damage(f"byte inverted at {place}", put(bytes([old[0] ^ 255]), 1))
    # In a number of JSON, "e" makes another number of it, or infinity.
    for new in b"e9":
        if old[0] != new:
            yield Damage(f"{chr(new)} at {place}", put(bytes([new]), 1))
    if place and data[place:].strip():
        yield Damage(f"cut off at {place}", lambda whole: whole[:place])
        yield Damage(f"first {place} lost", lambda whole: whole[place:])
    if any(old):
        yield Damage(f"zeros from {place}", put(bytes(len(old)), len(old)))


def _places(size: int, level: str) -> list[int]:
    if level == "all":
        return list(range(0, size, 1 if size <= SMALL_BYTES else BLOCK_BYTES))
    count = _PLACES[level]
    return sorted({size * number // count for number in range(count)} | {size - 2})
