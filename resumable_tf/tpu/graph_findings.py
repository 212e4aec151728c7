"""Finds operations of a traced function that can't run on a TPU, with the source line.

    for finding in find_unfit_operations(traced.graph):
        print(finding.kind, finding.operation, finding.source)

Two kinds: operations without any XLA kernel, which only a host can run (Python
functions, files, strings, tables, printing), and operations whose result has no static
shape although their arguments have one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import kernels

from resumable_tf.tpu.check_report import DYNAMIC_SHAPE, HOST_ONLY, Finding
from resumable_tf.tpu.source_lines import source_of

_XLA_DEVICE = "XLA_CPU_JIT"
# Made by tracing, or replaced by what they call, before kernels are looked for.
_STRUCTURAL = frozenset(
    (
        "Placeholder",
        "PartitionedCall",
        "StatefulPartitionedCall",
        "NoOp",
        "_Arg",
        "_Retval",
    )
)


def find_unfit_operations(graph: Any) -> list[Finding]:
    """Returns the operations at fault in a function's graph and those it calls.

    Args:
        graph: A `FuncGraph`.
    """
    _register_xla_kernels()
    found: dict[Finding, None] = {}
    for operation in _operations(graph, set()):
        kind = _fault_of(operation)
        if kind is not None:
            found[Finding(kind, operation.type, source_of(operation))] = None
    return list(found)


def _register_xla_kernels() -> None:
    """Compiles a function: before the first one, no XLA kernel is registered."""
    tf.function(lambda x: x + x, jit_compile=True)(tf.constant(1.0))


def _operations(graph: Any, seen: set[str]) -> Iterator[Any]:
    """Yields the operations of a graph and of each function it calls, once."""
    for operation in graph.get_operations():
        yield operation
        for name in _called_functions(operation):
            if name in seen:
                continue
            seen.add(name)
            called = graph._get_function(name)
            if called is not None and getattr(called, "graph", None) is not None:
                yield from _operations(called.graph, seen)


def _called_functions(operation: Any) -> Iterator[str]:
    """Yields the names in an operation's attributes that are functions."""
    for attribute in operation.node_def.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name
        for function in attribute.list.func:
            yield function.name


def _fault_of(operation: Any) -> str | None:
    """Returns what is wrong with an operation, None if nothing is."""
    is_called = any(True for _ in _called_functions(operation))
    if operation.type not in _STRUCTURAL and not is_called:
        registered = kernels.get_registered_kernels_for_op(operation.type).kernel
        if all(kernel.device_type != _XLA_DEVICE for kernel in registered):
            return HOST_ONLY
    is_origin = all(_is_static(value) for value in operation.inputs)
    if is_origin and not all(_is_static(value) for value in operation.outputs):
        return DYNAMIC_SHAPE
    return None


def _is_static(value: Any) -> bool:
    is_opaque = value.dtype in (tf.resource, tf.variant)
    return is_opaque or value.shape.is_fully_defined()
