"""The strict reader of encoded Python values.

    text, buffers = json_of(data)
    decoder = Decoder(buffers, marks=True)
    value = decoder.value(text)
    decoder.end()

The kinds are a closed list, each with its exact keys, types and ranges. Nothing is
imported, and the bytes choose no code. Every other input ends in `MalformedValue`.
"""

from __future__ import annotations

import collections
import fractions
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.state.value_kinds import (
    MAX_ARRAY_BYTES,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_MAXLEN,
    Generator,
    Gone,
    Held,
    Made,
    MalformedValue,
    Named,
    dtype_of,
)
from resumable_tf.state.value_texts import (
    checked,
    date_of,
    decimal_of,
    path_of,
    timedelta_of,
)

LENGTH_BYTES = 8
_MAX_DIMENSIONS = 32
_FACTORIES: dict[str, Callable[[], Any] | None] = {"": None, "bool": bool, "int": int}
_FACTORIES |= {"float": float, "str": str, "list": list, "dict": dict}
_FACTORIES |= {"set": set, "tuple": tuple}
_SEQUENCES: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple}
_SETS: dict[str, Callable[[Any], Any]] = {"set": set, "frozenset": frozenset}
_MAPPINGS: dict[str, Callable[[], Any]] = {"dict": dict}
_MAPPINGS |= {"ordered": collections.OrderedDict, "counter": collections.Counter}
_TENSOR_KINDS = "biufcS"


def json_of(data: bytes) -> tuple[Any, memoryview]:
    """Returns the JSON value at the beginning of encoded bytes, and the rest.

    Raises:
        MalformedValue: If there is none.
    """
    end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    if len(data) < LENGTH_BYTES or end > len(data):
        raise MalformedValue(f"{len(data)} bytes are no encoded value")
    try:
        text = json.loads(
            data[LENGTH_BYTES:end].decode("ascii"),
            object_pairs_hook=_without_duplicates,
            parse_int=_integer,
        )
    except RecursionError as error:
        raise MalformedValue("it is nested too deeply") from error
    except MalformedValue:
        raise
    except ValueError as error:  # Of JSON, and of ASCII.
        raise MalformedValue(f"it begins with no JSON: {error}") from error
    return text, memoryview(data)[end:]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedValue("a key stands twice in one object")
    return found


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise MalformedValue(f"an integer of {len(text)} digits")
    return int(text)


class Decoder:
    """Makes values of JSON, and takes the bytes of arrays in their order."""

    def __init__(self, buffers: memoryview, *, marks: bool) -> None:
        """Takes what follows the JSON text.

        Args:
            buffers: The bytes.
            marks: Whether marks may stand among the values.
        """
        self._marks = marks
        self._buffers = buffers
        self._position = 0
        self._depth = 0
        self._shared: list[Any] = []

    def end(self) -> None:
        """Makes sure that nothing is left over.

        Raises:
            MalformedValue: If something is.
        """
        left = len(self._buffers) - self._position
        if left:
            raise MalformedValue(f"{left} bytes are left over")

    def value(self, form: Any) -> Any:
        """Returns the value that a JSON form stands for.

        Raises:
            MalformedValue: If it is no form of a value.
        """
        if form is None or type(form) in (bool, int, float, str):
            return form
        form = checked(form, dict)
        keys = tuple(form)
        if keys == ("same",):
            return self._same(form["same"])
        if keys not in _FORMS or (keys in _OF_MARKS and not self._marks):
            raise MalformedValue(f"a value of the unknown kind {str(keys)[:60]}")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise MalformedValue(f"it is nested deeper than {MAX_DEPTH} levels")
        made = _FORMS[keys](self, form)
        self._depth -= 1
        if isinstance(made, _SHARED):
            self._shared.append(made)
        return made

    def _same(self, index: Any) -> Any:
        # Only what is complete has a number, so nothing can contain itself.
        if not 1 <= checked(index, int) <= len(self._shared):
            raise MalformedValue(f"a second mention of the unknown object {index}")
        return self._shared[index - 1]

    def _each(self, forms: Any, *, count: int | None = None) -> list[Any]:
        forms = checked(forms, list)
        if count is not None and len(forms) != count:
            raise MalformedValue(f"{len(forms)} values where {count} are needed")
        return [self.value(form) for form in forms]

    def _sequence(self, form: Any) -> Any:
        ((name, items),) = form.items()
        return _SEQUENCES[name](self._each(items))

    def _set(self, form: Any) -> Any:
        ((name, forms),) = form.items()
        items = self._each(forms)
        try:
            found = _SETS[name](items)
        except TypeError as error:
            raise MalformedValue(f"a set can't hold it: {error}") from error
        if len(found) != len(items):
            raise MalformedValue("an item stands twice in a set")
        return found

    def _mapping(self, form: Any) -> Any:
        name, pairs = next(iter(form.items()))
        if name == "defaultdict":
            named = form["factory"]
            is_known = isinstance(named, str) and named in _FACTORIES
            found: Any = collections.defaultdict()
            found.default_factory = _Later if not is_known else _FACTORIES[named]
        else:
            found = _MAPPINGS[name]()
        pairs = checked(pairs, list)
        for pair in pairs:
            key, value = self._each(pair, count=2)
            try:
                found[key] = value
            except TypeError as error:
                raise MalformedValue(f"it is no key: {error}") from error
        if len(found) != len(pairs):
            raise MalformedValue("a key stands twice in a dictionary")
        if name == "defaultdict" and not is_known:
            found.default_factory = self._factory(named)
        return found

    def _factory(self, form: Any) -> Any:
        factory = self.value(form)
        if not isinstance(factory, (Held, Named)):
            raise MalformedValue("a default_factory is none of the known ones")
        return factory

    def _deque(self, form: Any) -> Any:
        items, maxlen = self._each(form["deque"]), form["maxlen"]
        if maxlen is not None and checked(maxlen, int) < len(items):
            raise MalformedValue("a deque is longer than its maxlen")
        if maxlen is not None and maxlen > MAX_MAXLEN:
            raise MalformedValue(f"a deque of maxlen {maxlen}")
        return collections.deque(items, maxlen)

    def _bytes(self, form: Any) -> Any:
        ((name, size),) = form.items()
        data = self._take(size)
        return bytes(data) if name == "bytes" else bytearray(data)

    def _take(self, size: Any) -> memoryview:
        begin = self._position
        self._position += checked(size, int, at_least=0)
        if self._position > len(self._buffers):
            raise MalformedValue("it is cut off")
        return self._buffers[begin : self._position]

    def _slice(self, form: Any) -> Any:
        return slice(*self._each(form["slice"], count=3))

    def _held(self, form: Any) -> Any:
        place, kind = checked(form["held"], str), checked(form["as"], str)
        return Held(place, kind, self.value(form["state"]))

    def _made(self, form: Any) -> Any:
        base, attributes = self.value(form["base"]), self.value(form["attributes"])
        attributes = checked(attributes, dict)
        if not all(type(name) is str for name in attributes):
            raise MalformedValue("the name of an attribute is no text")
        return Made(checked(form["made"], str), base, attributes)

    def _generator(self, form: Any) -> Any:
        kind = checked(form["generator"], str)
        return Generator(kind, self.value(form["state"]))

    def _named(self, form: Any) -> Any:
        kind = next(iter(form))
        names = [checked(name, str) for name in checked(form["names"], list)]
        return Named(kind, checked(form[kind], str), tuple(names))

    def _gone(self, form: Any) -> Any:
        if form["gone"] is not True:
            raise MalformedValue("an attribute that is gone, and is not")
        return Gone()

    def _complex(self, form: Any) -> Any:
        parts = self._each(form["complex"], count=2)
        return complex(*(checked(part, float) for part in parts))

    def _fraction(self, form: Any) -> Any:
        parts = self._each(form["fraction"], count=2)
        above, below = (checked(part, int) for part in parts)
        if below < 1 or math.gcd(above, below) != 1:
            raise MalformedValue(f"the fraction {above}/{below}")
        return fractions.Fraction(above, below)

    def _range(self, form: Any) -> Any:
        parts = self._each(form["range"], count=3)
        start, stop, step = (checked(part, int) for part in parts)
        if step == 0:
            raise MalformedValue("a range of step 0")
        return range(start, stop, step)

    def _array(self, form: Any) -> Any:
        kind = checked(form["of"], str)
        array = self._numbers(checked(form["array"], dict))
        if kind == "array" and not array.dtype.hasobject:
            return array
        if kind == "scalar" and array.shape == () and not array.dtype.hasobject:
            return array[()]
        is_tensor = array.dtype.hasobject or array.dtype.kind in _TENSOR_KINDS
        is_tensor = is_tensor or array.dtype == tf.bfloat16.as_numpy_dtype
        if kind == "tensor" and is_tensor and array.dtype.isnative:
            return tf.constant(array)
        raise MalformedValue(f"a {kind[:40]!r} of {array.dtype} and {array.shape}")

    def _numbers(self, spec: Any) -> np.ndarray[Any, Any]:
        keys = tuple(spec)
        if keys == ("lengths", "shape"):
            shape, size = _shape(spec["shape"], 1)
            lengths = checked(spec["lengths"], list)
            if size != len(lengths):
                raise MalformedValue(f"{len(lengths)} strings in the shape {shape}")
            strings = np.empty(size, object)
            strings[:] = [bytes(self._take(length)) for length in lengths]
            return strings.reshape(shape)
        if keys != ("dtype", "shape", "order") or spec["order"] not in ("C", "F"):
            raise MalformedValue(f"an array with the keys {str(keys)[:60]}")
        dtype = dtype_of(spec["dtype"])
        shape, size = _shape(spec["shape"], dtype.itemsize)
        data = self._take(size)
        if not size:
            return np.empty(shape, dtype, spec["order"])
        if dtype.kind == "b" and max(data) > 1:
            raise MalformedValue("a truth value is neither 0 nor 1")
        flat = np.frombuffer(data, dtype)
        return np.array(flat.reshape(shape, order=spec["order"]), order="K")

    def _composite(self, form: Any) -> Any:
        name = next(iter(form))
        parts = self._each(form[name])
        if not all(isinstance(part, tf.Tensor) for part in parts):
            raise MalformedValue(f"the parts of a {name} tensor are no tensors")
        try:
            if name == "ragged":
                make = tf.RaggedTensor.from_nested_row_splits
                return make(parts[0], parts[1:], validate=True)
            indices, values, dense_shape = parts
            found = tf.SparseTensor(indices, values, dense_shape)
            _check_sparse(found)
            return found
        except (IndexError, TypeError, ValueError, tf.errors.OpError) as error:
            text = str(error)[:100]
            raise MalformedValue(f"no {name} tensor: {text}") from error


class _Later:
    """Stands for a default_factory that follows its dictionary's items."""


def _check_sparse(tensor: Any) -> None:
    """Makes sure that the indices lie inside a sparse tensor.

    Raises:
        MalformedValue: If they don't.
    """
    shape, indices = tensor.dense_shape.numpy(), tensor.indices.numpy()
    if (shape < 0).any() or (indices < 0).any() or (indices >= shape).any():
        raise MalformedValue("the indices of a sparse tensor lie outside it")


def _shape(given: Any, itemsize: int) -> tuple[tuple[int, ...], int]:
    """Returns a shape, and the number of bytes of an array of it.

    Raises:
        MalformedValue: If there can be no such array.
    """
    dims = checked(given, list)
    if len(dims) > _MAX_DIMENSIONS:
        raise MalformedValue(f"an array of {len(dims)} dimensions")
    shape = tuple(checked(dim, int, at_least=0) for dim in dims)
    # NumPy counts a dimension of 0 as 1 where it looks for an overflow.
    if math.prod(max(dim, 1) for dim in shape) * itemsize > MAX_ARRAY_BYTES:
        raise MalformedValue(f"an array of the shape {str(shape)[:60]}")
    return shape, math.prod(shape) * itemsize


_SHARED = (list, dict, set, bytearray, collections.deque, np.ndarray, Made, Generator)
_OF_MARKS = {("held", "as", "state"), ("made", "base", "attributes"), ("gone",)}
_OF_MARKS |= {("generator", "state"), ("enum", "names"), ("function", "names")}
_FORMS: dict[tuple[str, ...], Callable[[Decoder, Any], Any]] = {
    **{(name,): Decoder._sequence for name in _SEQUENCES},
    **{(name,): Decoder._set for name in _SETS},
    **{(name,): Decoder._mapping for name in _MAPPINGS},
    ("defaultdict", "factory"): Decoder._mapping,
    ("deque", "maxlen"): Decoder._deque,
    ("bytes",): Decoder._bytes,
    ("bytearray",): Decoder._bytes,
    ("slice",): Decoder._slice,
    ("held", "as", "state"): Decoder._held,
    ("made", "base", "attributes"): Decoder._made,
    ("generator", "state"): Decoder._generator,
    ("enum", "names"): Decoder._named,
    ("function", "names"): Decoder._named,
    ("gone",): Decoder._gone,
    ("complex",): Decoder._complex,
    ("fraction",): Decoder._fraction,
    ("range",): Decoder._range,
    ("path", "of"): lambda _, form: path_of(form),
    ("decimal",): lambda _, form: decimal_of(form),
    ("date",): lambda _, form: date_of(form),
    ("datetime", "fold"): lambda _, form: date_of(form),
    ("time", "fold"): lambda _, form: date_of(form),
    ("timedelta",): lambda _, form: timedelta_of(form),
    ("array", "of"): Decoder._array,
    ("ragged",): Decoder._composite,
    ("sparse",): Decoder._composite,
}
