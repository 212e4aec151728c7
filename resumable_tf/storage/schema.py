"""What a file may say: a field's type, and the range of its values.

    BEAT = Fields({"step": Maybe(STEP), "time": TIME, "is_training": Flag()})
    BEAT.check({"step": 7, "time": 1.5, "is_training": 1}, "beat")
    # ValueError: beat.is_training is 1, expected true or false

All small files of the project are checked here before anything is made of them. A
type is exactly that type: true is no number, 7.0 no step.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from resumable_tf.storage.strict_json import shown

MAX_INT = 2**63 - 1
"""The largest step, size and count: what TensorFlow and file systems can count to."""
MAX_TIME = 253_402_300_799
"""The last second of the year 9999, up to which dates can be written."""
MAX_NAME_BYTES = 255
"""Of one component of a path, on all file systems in use."""
MAX_NUMBER = 1.7e308
_NOT_IN_NAMES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Control characters, those that change the order of others, halves, line ends."""


class Kind(Protocol):
    """What a value may be."""

    def check(self, value: Any, at: str) -> Any:
        """Returns the value as it is used.

        Args:
            value: As it was parsed.
            at: Where it stands, for the message.

        Raises:
            ValueError: If it is of another kind.
        """


@dataclasses.dataclass(frozen=True)
class Integer:
    """An integer of a range; both ends belong to it."""

    low: int = 0
    high: int = MAX_INT

    def check(self, value: Any, at: str) -> int:
        """Returns the integer.

        Raises:
            ValueError: If it is none of the range.
        """
        if type(value) is not int or not self.low <= value <= self.high:
            raise _wrong(value, at, f"an integer of {self.low} to {self.high}")
        return value


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number of a range; both ends belong to it."""

    low: float = -MAX_NUMBER
    high: float = MAX_NUMBER

    def check(self, value: Any, at: str) -> int | float:
        """Returns the number.

        Raises:
            ValueError: If it is none of the range.
        """
        is_number = type(value) in (int, float)
        if not is_number or not self.low <= value <= self.high:
            raise _wrong(value, at, f"a number of {self.low} to {self.high}")
        return value  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True)
class Text:
    """A text.

    Attributes:
        pattern: Regular expression for all of it; None takes any.
        max_length: In characters.
        what: What it is, for the message.
    """

    pattern: str | None = None
    max_length: int = 4096
    what: str = "a text"

    def check(self, value: Any, at: str) -> str:
        """Returns the text.

        Raises:
            ValueError: If it is none, too long or another one.
        """
        if type(value) is not str or len(value) > self.max_length:
            raise _wrong(
                value, at, f"{self.what} of up to {self.max_length} characters"
            )
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            raise _wrong(value, at, self.what)
        return value


@dataclasses.dataclass(frozen=True)
class FileName:
    """A name of one component, which says what it is.

    Attributes:
        pattern: Regular expression for all of it; None takes any.
    """

    pattern: str | None = None

    def check(self, value: Any, at: str) -> str:
        """Returns the name.

        Raises:
            ValueError: If it could lead elsewhere, or is none that is written here.
        """
        if type(value) is not str or not is_file_name(value):
            raise _wrong(value, at, "the name of a file, without a directory")
        if self.pattern is not None and not re.fullmatch(self.pattern, value, re.ASCII):
            raise _wrong(value, at, "a file name as this project writes it")
        return value


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: Collection[Any]

    def check(self, value: Any, at: str) -> Any:
        """Returns the value.

        Raises:
            ValueError: If it is another one.
        """
        for one in self.values:
            if type(one) is type(value) and one == value:
                return one
        raise _wrong(value, at, "one of " + ", ".join(map(shown, self.values)))


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, value: Any, at: str) -> bool:
        """Returns the value.

        Raises:
            ValueError: If it is neither.
        """
        if type(value) is not bool:
            raise _wrong(value, at, "true or false")
        return value


@dataclasses.dataclass(frozen=True)
class Maybe:
    """A value, or null."""

    kind: Kind

    def check(self, value: Any, at: str) -> Any:
        """Returns the value, None for null."""
        return None if value is None else self.kind.check(value, at)


@dataclasses.dataclass(frozen=True)
class Array:
    """A list whose items are all of one kind."""

    item: Kind
    min_length: int = 0
    max_length: int = 1_000_000

    def check(self, value: Any, at: str) -> tuple[Any, ...]:
        """Returns the items.

        Raises:
            ValueError: If it is no list, or too short or long.
        """
        if type(value) is not list:
            raise _wrong(value, at, "a list")
        if not self.min_length <= len(value) <= self.max_length:
            raise ValueError(
                f"{at} has {len(value)} items, expected {self.min_length} to "
                f"{self.max_length}"
            )
        check = self.item.check
        return tuple(check(one, f"{at}[{i}]") for i, one in enumerate(value))


@dataclasses.dataclass(frozen=True)
class Table:
    """An object whose keys are texts of the writer's, and values of one kind."""

    value: Kind
    key: Kind = dataclasses.field(default_factory=Text)
    max_length: int = 1_000_000

    def check(self, value: Any, at: str) -> dict[str, Any]:
        """Returns the object.

        Raises:
            ValueError: If it is none, or too long.
        """
        if type(value) is not dict or len(value) > self.max_length:
            raise _wrong(value, at, f"an object of up to {self.max_length} keys")
        return {
            self.key.check(key, f"a key of {at}"): self.value.check(
                inner, f"{at}.{shown(key)}"
            )
            for key, inner in value.items()
        }


@dataclasses.dataclass(frozen=True)
class Fields:
    """An object with certain keys, and no others.

    Attributes:
        required: What is always there.
        optional: What may be.
    """

    required: Mapping[str, Kind]
    optional: Mapping[str, Kind] = dataclasses.field(default_factory=dict)

    def check(self, value: Any, at: str) -> dict[str, Any]:
        """Returns the object.

        Raises:
            ValueError: If it is none, or a key is missing or unknown.
        """
        if type(value) is not dict:
            raise _wrong(value, at, "an object")
        known = {**self.required, **self.optional}
        missing = sorted(set(self.required) - set(value))
        unknown = sorted(set(value) - set(known))
        if missing or unknown:
            raise ValueError(f"{at}: missing {missing}, unknown {shown(unknown)}")
        return {
            key: known[key].check(inner, f"{at}.{key}") for key, inner in value.items()
        }


@dataclasses.dataclass(frozen=True)
class Free:
    """Whatever the writer has put there; whoever uses a part of it checks that part."""

    def check(self, value: Any, at: str) -> Any:
        """Returns the value."""
        del at
        return value


STEP = COUNT = Integer()
TIME = Number(0, MAX_TIME)
CRC32C = Text("[0-9a-f]{8}", 8, "a crc32c of 8 hexadecimal digits")
SHA256 = Text("[0-9a-f]{64}", 64, "a SHA-256 of 64 hexadecimal digits")


def is_file_name(name: str) -> bool:
    """Returns whether a name is one component, the same to every file system."""
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return False
    return (
        0 < size <= MAX_NAME_BYTES
        and name not in (".", "..")
        and not set(name) & {"/", "\\"}
        and unicodedata.is_normalized("NFC", name)
        and not any(unicodedata.category(one) in _NOT_IN_NAMES for one in name)
    )


def _wrong(value: Any, at: str, expected: str) -> ValueError:
    return ValueError(f"{at} is {shown(value)}, expected {expected}")
