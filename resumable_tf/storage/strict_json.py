"""JSON as this project writes it, and nothing else that a parser may bear.

    parse_json(b'{"step": 7}')         # {"step": 7}
    parse_json(b'{"a": 1, "a": 2}')    # ValueError: the key 'a' is there twice
    canonical_json({"step": 7})        # the same in one line of ASCII

What is read may be hostile: it must cost little memory and time, and mean the same to
everybody who reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 64
MAX_VALUES = 1_000_000
"""Of objects, lists and their members together; each takes up to 200 bytes."""
MAX_DIGITS = 400
"""Of an integer; a user's own values may have any that a generator's state has."""
_SHOWN, _MOST_SHOWN = 60, 8


def parse_json(data: bytes, *, allows_nan: bool = False) -> Any:
    """Returns what a file or a line says.

    Args:
        data: UTF-8 text.
        allows_nan: Whether numbers may be NaN or infinite, as a metric can be.

    Raises:
        ValueError: If it is no JSON, has a key twice, a number that is not finite or
            has too many digits, half a character (a lone surrogate), or is nested too
            deeply or too long.
    """
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=float if allows_nan else _finite,
            parse_constant=float if allows_nan else _finite,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    check_json(value)
    return value


def canonical_json(value: Any) -> bytes:
    """Returns the one way in which this project writes a JSON value.

    Raises:
        TypeError: If it is none.
        ValueError: If a number is not finite.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=dict
    )
    return text.encode("ascii") + b"\n"


def check_json(value: Any) -> None:
    """Checks depth and text of a value that may be hostile.

    Raises:
        ValueError: If it is nested too deeply or has half a character.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for one in level for inner in _members(one)]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def shown(value: Any) -> str:
    """Returns a value as it can stand in a message, whatever it is and how long."""
    if isinstance(value, list | dict) and len(value) > _MOST_SHOWN:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = ascii(value[: 2 * _SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _members(value: Any) -> Iterator[Any]:
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value)
    elif isinstance(value, list):
        yield from value
    elif isinstance(value, dict):
        yield from value
        yield from value.values()


def _check_text(text: str) -> None:
    """Refuses half a character.

    Raises:
        ValueError: If there is one, which no file or terminal can take.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"half a character in {shown(text)}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object.

    Raises:
        ValueError: If a key is there twice: which value counts is a matter of taste.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return found


def _integer(text: str) -> int:
    """Reads an integer.

    Raises:
        ValueError: If it has too many digits.
    """
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    """Reads a number.

    Raises:
        ValueError: If it is not finite.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {shown(text)} is not finite")
    return value
