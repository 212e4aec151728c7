"""What can stand in an encoded value beside plain data.

    Held("EarlyStopping.best", "list", [1, 2])      # belongs into an object of now
    Made("train:Record", None, {"loss": 0.5})       # a new object of a known class
    Named("enum", "train:Phase", ("MAIN",))         # a member, by its name

A mark holds names and plain data, never code: who restores looks the names up in what
the running program has already, and refuses what is not there.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.errors import ResumableError

MAX_DEPTH = 100
"""Values within values; Python's own limit is some hundreds."""
MAX_DIGITS = 4000
"""Of an integer; Python itself reads no more than 4,300."""
MAX_ARRAY_BYTES = 1 << 62
MAX_MAXLEN = (1 << 63) - 1


class NotStorable(TypeError):
    """A value that has no exact form as bytes."""


class MalformedValue(ResumableError, ValueError):
    """Bytes or marks that no save of this program has written."""


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """What an object has become that the program makes by itself at each start.

    Attributes:
        place: Where it was when training began, as in an error's text.
        kind: Of the state; "kept" for none.
        state: A storable value.
    """

    place: str
    kind: str
    state: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
    """An object that training has made.

    Attributes:
        of: Module and name of its class.
        base: What it is as a string, number or container; None if it is none.
        attributes: Its attributes.
    """

    of: str
    base: Any
    attributes: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """A random generator of Python or NumPy that training has made.

    Attributes:
        kind: One of `random_states.KINDS`.
        state: Its state.
    """

    kind: str
    state: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
    """A member of an enumeration, or a function.

    Attributes:
        kind: "enum" or "function".
        of: Module and name of the class, or of the function.
        names: Of the members that make up the value; empty for a function.
    """

    kind: str
    of: str
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Gone:
    """Stands for an attribute that training has deleted."""


MARKS = (Held, Made, Generator, Named, Gone)

_BFLOAT16: np.dtype[Any] = np.dtype(tf.bfloat16.as_numpy_dtype)
_BFLOAT16_NAME = "bfloat16"
_DTYPES = re.compile(
    r"\|b1|\|[iu]1|[<>][iu][248]|[<>]f[248]|[<>]c(8|16)"
    r"|\|S[1-9]\d{0,7}|[<>]U[1-9]\d{0,7}"
    r"|[<>][mM]8(\[[1-9]?\d{0,8}(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)


def dtype_text(dtype: np.dtype[Any]) -> str:
    """Returns the name of a dtype, byte order included.

    Raises:
        NotStorable: If arrays of it have no exact form as bytes.
    """
    if dtype == _BFLOAT16:
        return _BFLOAT16_NAME
    if _DTYPES.fullmatch(dtype.str):
        return str(dtype.str)
    raise NotStorable(f"arrays of dtype {dtype} can't be stored")


def dtype_of(text: Any) -> np.dtype[Any]:
    """Returns the dtype that `dtype_text` named.

    Raises:
        MalformedValue: If it is none of the known ones.
    """
    if text == _BFLOAT16_NAME:
        return _BFLOAT16
    if isinstance(text, str) and _DTYPES.fullmatch(text):
        try:
            return np.dtype(text)
        except (TypeError, ValueError) as error:
            raise MalformedValue(f"{text!r} is no dtype: {error}") from error
    raise MalformedValue(f"an array of the unknown dtype {str(text)[:40]!r}")
