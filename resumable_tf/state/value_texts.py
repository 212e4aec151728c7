"""Values that a short text says, read strictly.

decimal_of({"decimal": "1.50"})
date_of({"date": "2020-01-02"})
"""

from __future__ import annotations

import datetime
import decimal
import pathlib
import re
from typing import Any, TypeVar

from resumable_tf.state.value_kinds import MAX_DIGITS, MalformedValue

_DECIMAL = re.compile(r"-?(\d+(\.\d+)?(E[+-]?\d{1,9})?|s?NaN\d*|Infinity)")
_PATHS = {"Path": pathlib.Path, "PurePosixPath": pathlib.PurePosixPath}
_PATHS |= {"PureWindowsPath": pathlib.PureWindowsPath}

T = TypeVar("T")


def checked(value: Any, kind: type[T], *, at_least: int | None = None) -> T:
    """Returns a part of the JSON text that must be of one type.

    Raises:
        MalformedValue: If it is not.
    """
    if type(value) is not kind:
        raise MalformedValue(f"{kind.__name__} expected, not {str(value)[:40]!r}")
    if at_least is not None and value < at_least:  # type: ignore[operator]
        raise MalformedValue(f"{value} is below {at_least}")
    return value


def path_of(form: Any) -> Any:
    """Returns the path of a form.

    Raises:
        MalformedValue: If it is none.
    """
    kind = checked(form["of"], str)
    if kind not in _PATHS:
        raise MalformedValue(f"a path of the unknown kind {kind[:40]!r}")
    return _PATHS[kind](checked(form["path"], str))


def decimal_of(form: Any) -> Any:
    """Returns the decimal of a form.

    Raises:
        MalformedValue: If it is none.
    """
    text = checked(form["decimal"], str)
    if len(text) > MAX_DIGITS or not _DECIMAL.fullmatch(text):
        raise MalformedValue(f"the decimal {text[:40]!r}")
    try:
        return decimal.Decimal(text)
    except decimal.DecimalException as error:
        raise MalformedValue(f"the decimal {text[:40]!r}") from error


def date_of(form: Any) -> Any:
    """Returns the date of a form.

    Raises:
        MalformedValue: If it is none.
    """
    name = next(iter(form))
    kind: Any = getattr(datetime, name)  # One of three, by the table below.
    try:
        found = kind.fromisoformat(checked(form[name], str))
    except ValueError as error:
        raise MalformedValue(f"no {name}: {error}") from error
    fold = checked(form.get("fold", 0), int)
    if fold not in (0, 1) or found.isoformat() != form[name]:
        raise MalformedValue(f"no {name}: {str(form[name])[:40]!r}")
    return found.replace(fold=fold) if fold else found


def timedelta_of(form: Any) -> Any:
    """Returns the timedelta of a form.

    Raises:
        MalformedValue: If it is none.
    """
    parts = [checked(part, int) for part in checked(form["timedelta"], list)]
    try:
        found = datetime.timedelta(*parts[:3])
    except OverflowError as error:
        raise MalformedValue(f"no timedelta: {error}") from error
    if [found.days, found.seconds, found.microseconds] != parts:
        raise MalformedValue(f"no timedelta: {parts[:4]}")
    return found
