"""The functions that an attribute may become in training, by name.

    name_of_function(keras.ops.less)        # "keras.ops:less"
    function_named("keras.ops:less")        # the function; None of all other names

Keras' own callbacks choose a comparison at the first epoch's end. Which functions a
checkpoint can name is a closed list of such comparisons and of number types.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
import tensorflow as tf

_COMPARISONS = ("less", "less_equal", "greater", "greater_equal", "minimum", "maximum")
_OPERATORS = ("lt", "le", "gt", "ge", "eq", "ne", "add", "sub", "mul")
_BUILTINS: tuple[Any, ...] = (
    min,
    max,
    sum,
    abs,
    len,
    bool,
    int,
    float,
    complex,
    str,
    bytes,
)
_BUILTINS += (list, tuple, dict, set, frozenset)


@functools.lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    found: dict[str, Any] = {f"builtins:{f.__name__}": f for f in _BUILTINS}
    rooms = {"numpy": np, "tensorflow": tf, "keras.ops": getattr(tf.keras, "ops", None)}
    for room, module in rooms.items():
        for name in _COMPARISONS:
            if hasattr(module, name):
                found[f"{room}:{name}"] = getattr(module, name)
    found |= {f"operator:{name}": getattr(operator, name) for name in _OPERATORS}
    numbers = (np.float16, np.float32, np.float64, np.int32, np.int64)
    return found | {f"numpy:{kind.__name__}": kind for kind in numbers}


def name_of_function(function: Any) -> str | None:
    """Returns the name of a function in the list, None if it is not in it."""
    return next((name for name, f in _table().items() if f is function), None)


def function_named(name: str) -> Any:
    """Returns the function of a name in the list, None if there is none."""
    return _table().get(name)
