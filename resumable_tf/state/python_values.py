"""Python values as bytes and back, exactly and without pickle.

    data = encode({"wait": 3, "best": 0.25, "best_weights": [array]})
    decode(data)        # equal, bit for bit

Knows None, bool, int, float, str, bytes, lists, tuples, sets, deques, dictionaries,
paths, NumPy arrays and scalars, tensors, and functions and classes by their importable
name. Nothing is executed while decoding but imports of modules that are named so.

Format: the length of a JSON text as 8 little-endian bytes, the text, and the bytes of
the arrays one after the other.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

_LENGTH_BYTES = 8


class NotStorable(TypeError):
    """A value that has no exact form as bytes."""


@dataclasses.dataclass(frozen=True)
class InPlace:
    """The state of an object that is put back into the live object.

    Attributes:
        kind: How to put it back.
        state: A storable value.
    """

    kind: str
    state: Any


def encode(value: Any) -> bytes:
    """Returns a value as bytes; equal values of equal types give equal bytes.

    Args:
        value: Anything that the module knows, nested at will.

    Raises:
        NotStorable: If a part of it is of another type.
    """
    buffers: list[bytes] = []
    text = json.dumps(_to_json(value, buffers)).encode()
    return b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *buffers])


def decode(data: bytes) -> Any:
    """Returns the value that `encode` was given.

    Args:
        data: What `encode` returned.

    Raises:
        ValueError: If the bytes are something else, or name what can't be imported.
    """
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    if end > len(data):
        raise ValueError(f"{len(data)} bytes are no encoded value")
    return _Decoder(data[end:]).value(json.loads(data[_LENGTH_BYTES:end]))


def reference_to(obj: Any) -> str:
    """Returns "module:name" of a function or class that can be imported by it.

    Raises:
        NotStorable: If the name leads to something else (a lambda, a closure).
    """
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if module and name:
        try:
            if _resolve(f"{module}:{name}") is obj:
                return f"{module}:{name}"
        except ValueError:
            pass
    raise NotStorable(f"{obj!r} can't be imported by its name")


def _resolve(reference: str) -> Any:
    module, _, name = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{reference} can't be imported") from error
    return found


def _to_json(value: Any, buffers: list[bytes]) -> Any:
    """Returns a JSON value; arrays go to the buffers."""
    if value is None or type(value) in (bool, int, float, str):
        return value

    def each(items: Any) -> list[Any]:
        return [_to_json(item, buffers) for item in items]

    kind = type(value)
    if kind in (list, tuple):
        return {kind.__name__: each(value)}
    if kind in (dict, collections.OrderedDict):
        pairs = [each(pair) for pair in value.items()]
        return {"dict" if kind is dict else "ordered": pairs}
    if kind in (set, frozenset):
        return {kind.__name__: sorted(each(value), key=json.dumps)}
    if kind is collections.deque:
        return {"deque": each(value), "maxlen": value.maxlen}
    if kind is InPlace:
        return {"in_place": value.kind, "state": _to_json(value.state, buffers)}
    if isinstance(value, pathlib.PurePath):
        return {"path": str(value)}
    if kind is bytes:
        buffers.append(value)
        return {"bytes": len(value)}
    if isinstance(value, (np.ndarray, np.generic)):
        return {"array": _array(np.asarray(value), buffers), "of": _array_kind(value)}
    if tf.is_tensor(value) and hasattr(value, "numpy"):
        return {"array": _array(np.asarray(value.numpy()), buffers), "of": "tensor"}
    if callable(value):
        return {"reference": reference_to(value)}
    raise NotStorable(f"a {kind.__module__}.{kind.__qualname__} can't be stored")


def _array_kind(value: Any) -> str:
    return "array" if isinstance(value, np.ndarray) else "scalar"


def _array(array: np.ndarray[Any, Any], buffers: list[bytes]) -> dict[str, Any]:
    if array.dtype.hasobject:
        # TensorFlow's strings arrive as objects; others have no exact form.
        items = array.ravel().tolist()
        if not all(isinstance(item, bytes) for item in items):
            raise NotStorable("an array of Python objects can't be stored")
        buffers.extend(items)
        return {"lengths": [len(item) for item in items], "shape": array.shape}
    buffers.append(array.tobytes())
    return {"dtype": array.dtype.name, "shape": array.shape}


class _Decoder:
    """Reads the buffers in the order in which they were written."""

    def __init__(self, buffers: bytes) -> None:
        self._buffers = buffers
        self._position = 0

    def value(self, encoded: Any) -> Any:
        if not isinstance(encoded, dict):
            return encoded
        name = next(iter(encoded))
        if name in _SEQUENCES:
            return _SEQUENCES[name]([self.value(item) for item in encoded[name]])
        if name in _MAPPINGS:
            pairs = [[self.value(item) for item in pair] for pair in encoded[name]]
            return _MAPPINGS[name](pairs)
        if name == "deque":
            items = [self.value(item) for item in encoded["deque"]]
            return collections.deque(items, encoded["maxlen"])
        if name == "in_place":
            return InPlace(encoded["in_place"], self.value(encoded["state"]))
        if name == "path":
            return pathlib.Path(encoded["path"])
        if name == "bytes":
            return self._take(encoded["bytes"])
        if name == "array":
            return _ARRAYS[encoded["of"]](self._array(encoded["array"]))
        if name == "reference":
            return _resolve(encoded["reference"])
        raise ValueError(f"an encoded value of the unknown kind {name!r}")

    def _take(self, size: int) -> bytes:
        begin = self._position
        self._position += size
        if self._position > len(self._buffers):
            raise ValueError("the encoded value is cut off")
        return self._buffers[begin : self._position]

    def _array(self, spec: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        shape = tuple(spec["shape"])
        if "lengths" in spec:
            items = [self._take(length) for length in spec["lengths"]]
            strings = np.empty(len(items), object)
            strings[:] = items
            return strings.reshape(shape)
        dtype = np.dtype(spec["dtype"])
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        flat = np.frombuffer(self._take(size), dtype)
        return np.array(flat.reshape(shape))


_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}
_MAPPINGS: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "ordered": collections.OrderedDict,
}
_ARRAYS: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "array": lambda array: array,
    "scalar": lambda array: array[()],
    "tensor": tf.constant,
}
