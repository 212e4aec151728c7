"""Python values as bytes and back, exactly and without pickle.

    data = encode({"wait": 3, "best": 0.25, "best_weights": [array]})
    decode(data)        # equal, bit for bit

Knows numbers, strings, bytes, containers of Python and `collections`, dates, paths,
decimals and fractions, NumPy arrays and scalars, eager tensors, and the marks of
`value_kinds`. An object that is held twice comes back as one object. Decoding imports
nothing, calls nothing that the bytes name, and takes no more memory than the bytes are
long, times a constant; whatever `encode` would not write is refused.

Format: the length of a JSON text as 8 little-endian bytes, the text, and the bytes of
the arrays one after the other.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.state.strict_decoding import LENGTH_BYTES, Decoder, json_of
from resumable_tf.state.value_kinds import (
    MARKS,
    MAX_DEPTH,
    MAX_DIGITS,
    Generator,
    Gone,
    Held,
    Made,
    MalformedValue,
    NotStorable,
    dtype_text,
)

__all__ = ["MalformedValue", "NotStorable", "decode", "encode"]

_FACTORIES: dict[Any, str] = {
    None: "",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
}
_FACTORIES |= {list: "list", dict: "dict", set: "set", tuple: "tuple"}
_PATHS = (pathlib.PurePosixPath, pathlib.PureWindowsPath)
# What may be held twice, and is then one object after decoding too.
_SHARED = (list, dict, set, bytearray, collections.deque, np.ndarray, Made, Generator)


def encode(value: Any) -> bytes:
    """Returns a value as bytes; equal values of equal types give equal bytes.

    Args:
        value: Anything that the module knows, nested at will.

    Raises:
        NotStorable: If a part of it is of another type, or it contains itself.
    """
    buffers: list[bytes] = []
    text = json.dumps(_Encoder(buffers).value(value)).encode()
    return b"".join([len(text).to_bytes(LENGTH_BYTES, "little"), text, *buffers])


def decode(data: bytes, *, marks: bool = True) -> Any:
    """Returns the value that `encode` was given.

    Args:
        data: What `encode` returned.
        marks: Whether marks may stand in it, or plain values only.

    Raises:
        MalformedValue: If the bytes are anything else.
    """
    text, buffers = json_of(data)
    decoder = Decoder(buffers, marks=marks)
    value = decoder.value(text)
    decoder.end()
    return value


class _Encoder:
    """Makes JSON values; the bytes of arrays go to the buffers."""

    def __init__(self, buffers: list[bytes]) -> None:
        self._buffers = buffers
        self._indices: dict[int, int | None] = {}
        self._num_shared = 0
        self._depth = 0

    def value(self, value: Any) -> Any:
        """Returns the JSON form of a value.

        Raises:
            NotStorable: If there is none.
        """
        if value is None or type(value) in (bool, float, str):
            return value
        if type(value) is int:
            if value.bit_length() > MAX_DIGITS * 3:
                raise NotStorable("an integer of thousands of digits can't be stored")
            return value
        if not isinstance(value, _SHARED):
            return self._nested(value)
        if id(value) in self._indices:
            index = self._indices[id(value)]
            if index is None:
                raise NotStorable("it contains itself")
            return {"same": index}
        self._indices[id(value)] = None
        form = self._nested(value)
        # Numbered when they are complete, as the decoder finds them.
        self._num_shared += 1
        self._indices[id(value)] = self._num_shared
        return form

    def _nested(self, value: Any) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotStorable(f"it is nested deeper than {MAX_DEPTH} levels")
        kind = type(value)
        if kind in _CONTAINERS:
            form: dict[str, Any] = {_CONTAINERS[kind]: self._each(value)}
        elif isinstance(value, MARKS):
            form = self._mark(value)
        elif isinstance(value, dict):
            form = self._mapping(value)
        elif kind in (set, frozenset):
            form = {kind.__name__: self._each(sorted(value, key=encode))}
        elif kind is collections.deque:
            form = {"deque": self._each(value), "maxlen": value.maxlen}
        elif kind in (bytes, bytearray):
            self._buffers.append(bytes(value))
            form = {kind.__name__: len(value)}
        elif kind is slice:
            form = {"slice": self._each([value.start, value.stop, value.step])}
        elif kind in _TEXTS or isinstance(value, _PATHS):
            form = _text(value)
        else:
            form = self._numbers(value)
        self._depth -= 1
        return form

    def _each(self, items: Any) -> list[Any]:
        return [self.value(item) for item in items]

    def _mapping(self, value: Any) -> dict[str, Any]:
        kind, pairs = type(value), [self._each(pair) for pair in value.items()]
        if kind is collections.defaultdict:
            factory = value.default_factory
            is_mark = isinstance(factory, MARKS)
            if not is_mark and factory not in _FACTORIES:
                raise NotStorable("its default_factory can't be stored")
            named = self.value(factory) if is_mark else _FACTORIES[factory]
            return {"defaultdict": pairs, "factory": named}
        if kind not in _MAPPINGS:
            raise NotStorable(
                f"a {kind.__module__}.{kind.__qualname__} can't be stored"
            )
        return {_MAPPINGS[kind]: pairs}

    def _mark(self, mark: Any) -> dict[str, Any]:
        if isinstance(mark, Held):
            return {
                "held": mark.place,
                "as": mark.kind,
                "state": self.value(mark.state),
            }
        if isinstance(mark, Made):
            base, attributes = self.value(mark.base), self.value(mark.attributes)
            return {"made": mark.of, "base": base, "attributes": attributes}
        if isinstance(mark, Generator):
            return {"generator": mark.kind, "state": self.value(mark.state)}
        if isinstance(mark, Gone):
            return {"gone": True}
        return {mark.kind: mark.of, "names": list(mark.names)}

    def _numbers(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is fractions.Fraction:
            return {"fraction": self._each([value.numerator, value.denominator])}
        if kind is range:
            return {"range": self._each([value.start, value.stop, value.step])}
        if kind is np.ndarray:
            return {"array": self._array(value), "of": "array"}
        if isinstance(value, np.generic):
            return {"array": self._array(np.asarray(value)), "of": "scalar"}
        if isinstance(value, tf.RaggedTensor):
            parts = [value.flat_values, *value.nested_row_splits]
            return {"ragged": self._each(parts)}
        if isinstance(value, tf.SparseTensor):
            parts = [value.indices, value.values, value.dense_shape]
            return {"sparse": self._each(parts)}
        if _is_eager(value):
            return {"array": self._array(np.asarray(value.numpy())), "of": "tensor"}
        raise NotStorable(f"a {kind.__module__}.{kind.__qualname__} can't be stored")

    def _array(self, array: np.ndarray[Any, Any]) -> dict[str, Any]:
        if array.dtype.hasobject:
            # TensorFlow's strings arrive as objects; others have no exact form.
            items = array.ravel().tolist()
            if not all(type(item) is bytes for item in items):
                raise NotStorable("an array of Python objects can't be stored")
            self._buffers.extend(items)
            return {"lengths": [len(item) for item in items], "shape": array.shape}
        # Sums over an array depend on the order of its elements in memory.
        flags = array.flags
        order = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
        form = {"dtype": dtype_text(array.dtype), "shape": array.shape, "order": order}
        self._buffers.append(array.tobytes(order))  # type: ignore[arg-type]
        return form


def _is_eager(value: Any) -> bool:
    """Returns whether a value is a tensor that has its numbers here."""
    if isinstance(value, tf.Variable) or not isinstance(value, tf.Tensor):
        return False
    return hasattr(value, "numpy") and value.dtype not in (tf.variant, tf.resource)


def _text(value: Any) -> dict[str, Any]:
    """Returns a value whose text says it all.

    Raises:
        NotStorable: If the text does not.
    """
    if isinstance(value, pathlib.PurePath):
        return {"path": str(value), "of": _path_kind(value)}
    zone = getattr(value, "tzinfo", None)
    if zone is not None and not (
        type(zone) is datetime.timezone
        and zone.tzname(None) == datetime.timezone(zone.utcoffset(None)).tzname(None)
    ):
        raise NotStorable("a time with a named time zone can't be stored")
    if isinstance(value, datetime.timedelta):
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, decimal.Decimal):
        return {"decimal": str(value)}
    if isinstance(value, (datetime.datetime, datetime.time)):
        return {type(value).__name__: value.isoformat(), "fold": value.fold}
    return {"date": value.isoformat()}


def _path_kind(value: pathlib.PurePath) -> str:
    if isinstance(value, pathlib.Path):
        if type(value) is type(pathlib.Path()):
            return "Path"
    elif type(value) in _PATHS:
        return type(value).__name__
    raise NotStorable(f"a {type(value).__qualname__} can't be stored")


_CONTAINERS: dict[Any, str] = {list: "list", tuple: "tuple"}
_MAPPINGS: dict[Any, str] = {dict: "dict", collections.OrderedDict: "ordered"}
_MAPPINGS |= {collections.Counter: "counter"}
_TEXTS: set[Any] = {datetime.datetime, datetime.date, datetime.time, datetime.timedelta}
_TEXTS |= {decimal.Decimal}
