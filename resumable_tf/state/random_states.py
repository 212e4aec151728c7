"""The states of Python's and NumPy's random generators, checked before they are used.

    mark = state_of(np.random.default_rng(1))       # Generator("numpy", {...})
    check(mark)                                     # of known form and in range
    put(mark, generator)                            # into a live one
    made = make(mark)                               # a new one

NumPy takes a position beyond its table without a word and then reads foreign memory, so
every part of a state is checked here. The bit generators are a closed list.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from resumable_tf.state.value_kinds import Generator, MalformedValue, NotStorable

PYTHON, NUMPY, LEGACY = "python", "numpy", "numpy legacy"
RANDOM_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)

_MT_WORDS = 624
_WORD, _LONG, _WIDE = 1 << 32, 1 << 64, 1 << 128
_BIT_GENERATORS: dict[str, Callable[[], Any]] = {
    "MT19937": np.random.MT19937,
    "PCG64": np.random.PCG64,
    "PCG64DXSM": np.random.PCG64DXSM,
    "Philox": np.random.Philox,
    "SFC64": np.random.SFC64,
}
_PCG64 = {
    "state": {"state": range(_WIDE), "inc": range(_WIDE)},
    "has_uint32": range(2),
    "uinteger": range(_WORD),
}
_MT19937 = {"state": {"key": ("<u4", _MT_WORDS), "pos": range(_MT_WORDS + 1)}}
# For each the parts of its state: a range of integers, or dtype and length of an array.
_FORMS: dict[str, dict[str, Any]] = {
    "MT19937": _MT19937,
    "PCG64": _PCG64,
    "PCG64DXSM": _PCG64,
    "Philox": {
        "state": {"counter": ("<u8", 4), "key": ("<u8", 2)},
        "buffer": ("<u8", 4),
        "buffer_pos": range(5),
        "has_uint32": range(2),
        "uinteger": range(_WORD),
    },
    "SFC64": {
        "state": {"state": ("<u8", 4)},
        "has_uint32": range(2),
        "uinteger": range(_WORD),
    },
}
_LEGACY = {**_MT19937, "has_gauss": range(2), "gauss": float}


def state_of(generator: Any) -> Generator:
    """Returns the state of a generator.

    Args:
        generator: One of `RANDOM_GENERATORS`.

    Raises:
        NotStorable: If it has another state than those of its kind have.
    """
    try:
        if isinstance(generator, random.Random):
            mark = Generator(PYTHON, generator.getstate())
        elif isinstance(generator, np.random.Generator):
            mark = Generator(NUMPY, generator.bit_generator.state)
        else:
            mark = Generator(LEGACY, generator.get_state(legacy=False))
        check(mark)
    except (NotImplementedError, MalformedValue) as error:
        name = type(generator).__qualname__
        raise NotStorable(f"a {name} has no state that is known ({error})") from error
    return mark


def check(mark: Generator) -> None:
    """Makes sure that a state is one that a generator can have.

    Raises:
        MalformedValue: If it is not.
    """
    if mark.kind == PYTHON:
        _check_python(mark.state)
    elif mark.kind == LEGACY:
        _check_numpy(mark.state, {"MT19937": _LEGACY})
    elif mark.kind == NUMPY:
        _check_numpy(mark.state, _FORMS)
    else:
        raise MalformedValue(f"a generator of the unknown kind {mark.kind[:40]!r}")


def put(mark: Generator, generator: Any) -> None:
    """Gives a generator a state that was checked.

    Raises:
        MalformedValue: If it is of another kind.
    """
    if not fits(mark, generator):
        raise MalformedValue(
            f"the state of a {name_of(mark)} for a {type(generator).__qualname__}"
        )
    if mark.kind == PYTHON:
        generator.setstate(mark.state)
    elif mark.kind == NUMPY:
        generator.bit_generator.state = mark.state
    else:
        generator.set_state(mark.state)


def fits(mark: Generator, generator: Any) -> bool:
    """Returns whether a generator can take a state that was checked."""
    if mark.kind == PYTHON:
        return isinstance(generator, random.Random)
    if mark.kind == LEGACY:
        return isinstance(generator, np.random.RandomState)
    if not isinstance(generator, np.random.Generator):
        return False
    return bool(type(generator.bit_generator).__name__ == mark.state["bit_generator"])


def make(mark: Generator) -> Any:
    """Returns a new generator with a state that was checked."""
    if mark.kind == PYTHON:
        made: Any = random.Random()
    elif mark.kind == LEGACY:
        made = np.random.RandomState()
    else:
        made = np.random.Generator(_BIT_GENERATORS[mark.state["bit_generator"]]())
    put(mark, made)
    return made


def can_be_made(generator: Any) -> bool:
    """Returns whether `make` gives a generator of the very same kind."""
    return type(generator) in RANDOM_GENERATORS


def name_of(mark: Generator) -> str:
    """Returns what a reader calls the kind of a state."""
    return mark.state["bit_generator"] if mark.kind == NUMPY else mark.kind


def _check_python(state: Any) -> None:
    is_known = type(state) is tuple and len(state) == 3 and state[0] == 3
    is_known = is_known and type(state[1]) is tuple and len(state[1]) == _MT_WORDS + 1
    if not is_known or type(state[2]) not in (float, type(None)):
        raise MalformedValue("it is no state of Python's random")
    *words, position = state[1]
    if not all(type(word) is int and 0 <= word < _WORD for word in words):
        raise MalformedValue("a word of Python's random is out of range")
    if type(position) is not int or not 0 <= position <= _MT_WORDS:
        raise MalformedValue("the position of Python's random is out of range")


def _check_numpy(state: Any, forms: dict[str, dict[str, Any]]) -> None:
    name = state.get("bit_generator") if type(state) is dict else None
    if type(name) is not str or name not in forms:
        raise MalformedValue(f"the unknown bit generator {str(name)[:40]!r}")
    _check_parts(state, {"bit_generator": str, **forms[name]}, name)


def _check_parts(state: Any, form: dict[str, Any], name: str) -> None:
    if type(state) is not dict or state.keys() != form.keys():
        raise MalformedValue(f"it is no state of {name}")
    for key, expected in form.items():
        part = state[key]
        if isinstance(expected, dict):
            _check_parts(part, expected, name)
            continue
        if isinstance(expected, range):
            is_good = type(part) is int and part in expected
        elif isinstance(expected, tuple):
            dtype, length = expected
            is_good = type(part) is np.ndarray and part.dtype == np.dtype(dtype)
            is_good = is_good and part.shape == (length,)
        else:
            is_good = type(part) is expected
        if not is_good:
            raise MalformedValue(f"{key} of {name} is out of range")
