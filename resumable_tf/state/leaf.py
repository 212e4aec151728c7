"""The values of one node of TensorFlow's object graph.

    for leaf in leaves_of(variable):
        leaf.name        # "VARIABLE_VALUE"
        leaf.read()      # the tensor as it is now; later updates don't change it

TensorFlow's own objects answer lazily (with callables, save specs or distributed
variables); here each becomes one function that reads now. On a CPU a read shares the
variable's buffer, and the next update of the variable moves to a new one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from resumable_tf.errors import StateError

VARIABLE_VALUE = "VARIABLE_VALUE"
"""TensorFlow's name for a variable's only value."""

LEGACY_NAME = "_LEGACY_SAVEABLE_NAME"
"""Attribute by which TensorFlow marks classes (tables, iterators) with old keys."""

_IS_A: dict[tuple[type, type], bool] = {}
_PYTHON_STATE = "py_state"
_COORDINATOR = "/job:localhost/replica:0/task:0/device:CPU:0"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One value of one object.

    Attributes:
        name: TensorFlow's name of the value within the object.
        shape: Its shape, None if it depends on the value (an iterator's state).
        dtype: TensorFlow's name of the dtype.
        read: Returns the value as it is now, as a tensor on the host.
        prefix: What stands before the name in the key; for a few old classes.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str
    read: Callable[[], Any]
    prefix: str = ""


def leaves_of(obj: Any) -> list[Leaf]:
    """Returns the values that TensorFlow saves for this object itself.

    Args:
        obj: A node of the object graph.

    Raises:
        StateError: If TensorFlow saves the object in a way that can't be captured.
    """
    inner = tensorflow_variable(obj)
    if is_variable(inner):
        return [
            Leaf(
                name=VARIABLE_VALUE,
                shape=_static_shape(inner),
                dtype=dtype_name(inner.dtype),
                read=functools.partial(read_variable, inner),
            )
        ]
    if isinstance(obj, tf.train.experimental.PythonState):
        python_state = obj
        return [Leaf(_PYTHON_STATE, (), "string", lambda: _serialize(python_state))]
    values = _serialized_values(obj)
    return [_other_leaf(obj, name, value) for name, value in values.items()]


def is_variable(obj: Any) -> bool:
    """Returns whether `obj` is a variable of TensorFlow or of Keras 3."""
    return _is_a(obj, tf.Variable) or is_keras_variable(obj)


def is_keras_variable(obj: Any) -> bool:
    """Returns whether `obj` is a Keras 3 variable, without importing Keras."""
    return tensorflow_variable(obj) is not obj


def tensorflow_variable(variable: Any) -> Any:
    """Returns the TensorFlow variable inside a Keras 3 one, or `variable` itself."""
    if _is_a(variable, tf.Variable):
        return variable
    # As no layer and no module is, whatever its attributes are called.
    if not _is_a(variable, tf.__internal__.types.Tensor):
        return variable
    # A property `value` would first look for Keras' scopes, at each question.
    held = getattr(variable, "__dict__", {}).get("_value")
    if not _is_a(held, tf.Variable):
        held = getattr(variable, "value", None)
    return held if _is_a(held, tf.Variable) else variable


def replica_components(variable: Any) -> Sequence[Any]:
    """Returns the variable of each replica; one for a variable of one device."""
    inner = tensorflow_variable(variable)
    if isinstance(inner, tf.distribute.DistributedValues):
        return tuple(inner.values)
    return (inner,)


def read_variable(variable: Any) -> Any:
    """Returns a variable's value now, the one that TensorFlow would save.

    Raises:
        StateError: If the variable is not initialized.
    """
    inner = tensorflow_variable(variable)
    if isinstance(inner, tf.distribute.DistributedValues):
        components = replica_components(inner)
        if len(components) > 1 and not _has_one_value(inner):
            # TensorFlow refuses to save these; each replica's value is saved besides.
            inner = components[0]
    value = to_host(inner)
    # TensorFlow reads an uninitialized variable as an empty tensor. `value.shape` would
    # make an object for each variable and save.
    shape, fixed = value._shape_tuple(), _static_shape(inner)
    if shape != fixed and not inner.shape.is_compatible_with(shape):
        raise StateError(
            f"the variable {inner.name} is not initialized and can't be saved; "
            "assign it before the first save"
        )
    return value


def to_host(value: Any) -> Any:
    """Returns a tensor on the host with the value as it is now."""
    is_plain = _is_a(value, tf.Variable) and not isinstance(
        value, tf.distribute.DistributedValues
    )
    if is_plain and value.device == _COORDINATOR:
        # As below, without the layers above it: they cost five times the reading.
        return tf.raw_ops.ReadVariableOp(resource=value.handle, dtype=value.dtype)
    with tf.device(host_device()):
        return tf.identity(value)


def wait_for_hosts(values: Iterable[Any]) -> None:
    """Waits until tensors have come from remote hosts; without such, they are there.

    TensorFlow's calls to remote hosts return at once. A copy that is still under way is
    lost with its host, and its error would be found by whoever uses it.

    Args:
        values: Tensors of `to_host`.
    """
    if host_device() == _COORDINATOR:
        for value in values:
            value.numpy()


def host_device() -> str:
    """Returns the CPU of this process, also where it drives remote hosts.

    A process that drives others is `localhost` among them. A worker among equals
    (MultiWorkerMirroredStrategy) is not, and there the short name is its own CPU.
    """
    names = [device.name for device in tf.config.list_logical_devices("CPU")]
    is_local = ["/job:localhost" in name or "/job:" not in name for name in names]
    return _COORDINATOR if any(is_local) and not all(is_local) else "CPU:0"


def checkpoint_options() -> Any:
    """Returns options that let this process read and write TensorFlow's files."""
    options = tf.train.CheckpointOptions()
    if host_device() == _COORDINATOR:
        # Remote hosts don't see our files. This full name works for saving and for
        # restoring, the documented "/job:localhost" for saving only.
        options.experimental_io_device = _COORDINATOR
    return options


def dtype_name(dtype: Any) -> str:
    """Returns TensorFlow's name of a dtype of TensorFlow, Keras or NumPy."""
    return str(tf.as_dtype(dtype).base_dtype.name)


def _is_a(obj: Any, base: type) -> bool:
    # Of these classes `isinstance` asks in Python, many times a variable and save.
    key = type(obj), base
    if key not in _IS_A:
        _IS_A[key] = issubclass(*key)
    return _IS_A[key]


def _has_one_value(variable: Any) -> bool:
    """Returns whether the replicas' values have one reading across replicas."""
    return not (
        variable.synchronization == tf.VariableSynchronization.ON_READ
        and variable.aggregation == tf.VariableAggregation.NONE
    )


def _static_shape(variable: Any) -> tuple[int, ...] | None:
    shape = variable.shape
    return tuple(shape.as_list()) if shape.is_fully_defined() else None


def _serialize(python_state: Any) -> Any:
    return tf.constant(python_state.serialize(), dtype=tf.string)


def _serialized_values(obj: Any) -> dict[str, Any]:
    """Returns what `_serialize_to_tensors` gives, {} if the object has no values.

    Raises:
        StateError: If the object has values under TensorFlow's old interface only.
    """
    try:
        return dict(obj._serialize_to_tensors())
    except NotImplementedError:
        pass
    if obj._gather_saveables_for_checkpoint():
        raise StateError(
            f"{type(obj).__name__} saves itself through TensorFlow's old saveables, "
            "which can't be captured; wrap its state in tf.Variable"
        )
    return {}


def _other_leaf(obj: Any, name: str, value: Any) -> Leaf:
    """Returns the leaf of an object that is no variable (a table, an iterator).

    Raises:
        StateError: If the value can't be read.
    """

    def read() -> Any:
        now = obj._serialize_to_tensors()[name]
        return to_host(_resolve(now))

    tensor = _resolve(value)
    if not tf.is_tensor(tensor):
        raise StateError(
            f"{type(obj).__name__} gives {type(tensor).__name__} as {name!r}, where a "
            "tensor is needed"
        )
    return Leaf(
        name=name,
        shape=None,
        dtype=dtype_name(tensor.dtype),
        read=read,
        prefix=getattr(obj, LEGACY_NAME, ""),
    )


def _resolve(value: Any) -> Any:
    """Returns the tensor behind one of TensorFlow's lazy values."""
    if callable(value) and not tf.is_tensor(value):
        value = value()
    return getattr(value, "tensor", value) if not tf.is_tensor(value) else value
