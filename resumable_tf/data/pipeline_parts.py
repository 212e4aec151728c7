"""What a `tf.data` pipeline consists of, also inside its functions.

    parts = find_parts(dataset)
    parts.shuffles, parts.variables, [name for name, _ in parts.operations()]

TensorFlow knows the inputs of a dataset and the functions of a `map`; a dataset that
such a function uses from outside is found among the variables of the Python function.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from resumable_tf.errors import StateError

_SUFFIX = re.compile(r"V\d+$")


@dataclass
class Parts:
    """A pipeline, taken apart.

    Attributes:
        datasets: All of them; what one reads from comes after it.
        functions: The functions of `map`, `filter` and the like, with their dataset.
        shuffles: Those that shuffle anew for each iterator.
        variables: TensorFlow variables that functions use.
    """

    datasets: list[Any] = field(default_factory=list)
    functions: list[tuple[Any, Any]] = field(default_factory=list)
    shuffles: list[Any] = field(default_factory=list)
    variables: list[Any] = field(default_factory=list)

    def operations(self) -> Iterator[str]:
        """Yields the kind of each dataset, also of those made inside functions."""
        for dataset in self.datasets:
            yield kind_of(type(dataset).__name__)
        for _, function in self.functions:
            for node, _ in nodes_of(function):
                if "Dataset" in node.op:
                    yield kind_of(node.op)


def kind_of(name: str) -> str:
    """Returns what a class and an operation of TensorFlow have in common.

    Args:
        name: "_MapDataset", "MapDataset" or "ShuffleDatasetV3".
    """
    return _SUFFIX.sub("", name.lstrip("_")).removesuffix("Dataset").lower()


def nodes_of(function: Any) -> Iterator[tuple[Any, bool]]:
    """Yields the nodes of a function and those it calls, and whether each has a state.

    Args:
        function: A `ConcreteFunction`.
    """
    graph_def = function.graph.as_graph_def()
    groups = [graph_def.node, *(f.node_def for f in graph_def.library.function)]
    called = {f.signature.name for f in graph_def.library.function}
    for node in (node for group in groups for node in group):
        if node.op not in called:
            yield node, bool(function.graph.op_def_for_type(node.op).is_stateful)


def find_parts(dataset: Any) -> Parts:
    """Takes a pipeline apart.

    Args:
        dataset: A `tf.data.Dataset`.

    Raises:
        StateError: If a function uses a dataset that can't be found.
    """
    parts = Parts()
    seen: set[int] = set()

    def visit(current: Any) -> None:
        if id(current) in seen:
            return
        seen.add(id(current))
        functions = [wrapper for wrapper in current._functions()]
        for inner in (*current._inputs(), *_captured(functions)):
            visit(inner)
        parts.datasets.insert(0, current)
        parts.functions += [(current, wrapper.function) for wrapper in functions]

    visit(dataset)
    variables: dict[int, Any] = {}
    for _, function in parts.functions:
        variables.update((id(v), v) for v in function.graph.variables)
    parts.variables = list(variables.values())
    parts.shuffles = [
        found
        for found in parts.datasets
        if getattr(found, "_reshuffle_each_iteration", None)
    ]
    return parts


def _captured(wrappers: list[Any]) -> Iterator[Any]:
    """Yields the datasets that functions use from outside.

    Raises:
        StateError: If one is out of reach.
    """
    for wrapper in wrappers:
        variants = [
            tensor
            for tensor in wrapper.function.captured_inputs
            if tensor.dtype == tf.variant
        ]
        if not variants:
            continue
        around = [value for value in _closure(wrapper._func) if _is_dataset(value)]
        known = {id(found._variant_tensor): found for found in around}
        for variant in variants:
            if id(variant) not in known:
                raise StateError(
                    f"{where(wrapper._func)}: the function uses a tf.data.Dataset from "
                    "outside that can't be followed; make the dataset inside the "
                    "function, or let the function name it directly"
                )
            yield known[id(variant)]


def _closure(function: Any) -> Iterator[Any]:
    try:
        used = inspect.getclosurevars(inspect.unwrap(function))
    except TypeError:
        return
    for value in (*used.nonlocals.values(), *used.globals.values()):
        yield value
        if inspect.isfunction(value):
            yield from inspect.getclosurevars(value).nonlocals.values()
        elif isinstance(value, (list, tuple)):
            yield from value


def _is_dataset(value: Any) -> bool:
    return isinstance(value, tf.data.Dataset)


def where(function: Any) -> str:
    """Returns the place of a Python function: its file, line and name.

    Args:
        function: What was given to `map`, `filter` and the like.
    """
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return str(getattr(function, "__name__", type(function).__name__))
    return f"{code.co_filename}:{code.co_firstlineno} ({code.co_name})"
