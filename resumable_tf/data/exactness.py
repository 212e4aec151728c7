"""Which pipelines continue exactly, and how.

    replayed_because(parts)         # []: TensorFlow's own iterator state is exact
                                    # ["CsvDataset"]: go back to the epoch's start
                                    # StateError: can't be exact at all

TensorFlow's state of an iterator is believed for operations only that a property test
has shown to be exact at every position. For the rest an epoch is begun again and what
was consumed is read once more. What draws from a state that can't be put back, or in an
order that changes from run to run, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from resumable_tf.data.pipeline_parts import Parts, kind_of, nodes_of, where
from resumable_tf.errors import StateError

PROVEN = frozenset(
    """
    batch concatenate filter fixedlengthrecord flatmap interleave map options
    paddedbatch parallelbatch parallelinterleave parallelmap prefetch range repeat
    scan shard shuffle skip take takewhile tensor tensorslice textline tfrecord unique
    window zip
    """.split()
)
"""Kinds of datasets whose iterator state is exact at every position."""

_PYTHON = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}
_GENERATOR = {"generator"}
_READS = {"ReadVariableOp", "VarHandleOp", "ResourceGather", "ResourceGatherNd"}
_CALLS = {"StatefulPartitionedCall", "PartitionedCall", "If", "While", "Case"}
_HARMLESS = _READS | _CALLS | {"Assert", "Print", "PrintV2", "Placeholder", "Timestamp"}
# TensorFlow saves no state of a function that makes a shuffle. Each call of it begins
# with the same seeds.
_OWN_SEEDS, _SHUFFLE_INSIDE = "DummySeedGenerator", "shuffle in a function"
# Tables that are read only, models of tokenizers, and what stands for no seeds yet.
_PREFIXES = (
    *("HashTable", "LookupTableFind", "LookupTableSize", "InitializeTable"),
    *("Sentencepiece", "Wordpiece", "FastWordpiece", "Dummy"),
)
_PARALLEL = {"parallelmap", "parallelinterleave", "mapandbatch"}


def replayed_because(parts: Parts, *, trusts_random: bool = False) -> list[str]:
    """Returns why TensorFlow's iterator state can't be used; empty if it can.

    Args:
        parts: The pipeline.
        trusts_random: Whether random operations in functions are known to be over
            before the first batch.

    Raises:
        StateError: If no way is exact.
    """
    reasons = sorted({kind for kind in parts.operations() if kind not in PROVEN})
    if _GENERATOR & set(reasons):
        _refuse_python("from_generator")
    _check_order(parts)
    for dataset, function in parts.functions:
        place = where(_python_function(dataset, function))
        if trusts_random:
            continue
        stateful = list(_stateful(function, place))
        reasons += stateful
        is_drawn = any(reason != _SHUFFLE_INSIDE for reason in stateful)
        is_loose = is_drawn and not is_op_determinism_enabled()
        if is_loose and (_is_parallel(dataset) or _runs_in_parallel(function)):
            raise StateError(
                f"{place}: random numbers or variables in a function that runs in "
                "parallel are drawn in another order each time, with or without an "
                "interruption. Leave num_parallel_calls out of this map; or make the "
                "layers part of the model; or draw with tf.image.stateless_random_* "
                "and tf.random.stateless_* by the element's number (dataset."
                "enumerate()); or call tf.keras.utils.set_random_seed(n) and "
                "tf.config.experimental.enable_op_determinism() at the beginning, with "
                "which TensorFlow runs this map, and much else, one by one"
            )
    _check_sources(parts, reasons)
    return reasons


def changes_variables(parts: Parts) -> bool:
    """Returns whether reading the pipeline changes the variables that it uses."""
    return any(
        "Assign" in node.op or node.op.startswith(("Rng", "Stateful"))
        for _, function in parts.functions
        for node, is_stateful in nodes_of(function)
        if is_stateful and node.op not in _CALLS
    )


def _stateful(function: Any, place: str) -> Iterator[str]:
    """Yields what in a function has a state that is put back by reading again.

    Raises:
        StateError: If it has one that can't be.
    """
    found = set()
    for node, is_stateful in nodes_of(function):
        if node.op in _PYTHON:
            _refuse_python(place)
        if node.op == _OWN_SEEDS:
            found.add(_SHUFFLE_INSIDE)
        if not is_stateful or _is_harmless(node.op):
            continue
        if "seed" in node.attr and "seed2" in node.attr:
            if not (node.attr["seed"].i or node.attr["seed2"].i):
                raise StateError(
                    f"{place}: {node.op} draws random numbers without a seed; call "
                    "tf.keras.utils.set_random_seed(n) before the pipeline is made, or "
                    "use tf.random.stateless_* with the element's index"
                )
            found.add(f"random numbers ({node.op})")
        elif "Assign" in node.op or node.op.startswith(("Rng", "Stateful")):
            found.add("variables")
        else:
            raise StateError(
                f"{place}: {node.op} in a tf.data pipeline keeps a state that can't be "
                "saved; use an operation without one, or a PyDataset"
            )
    yield from sorted(found)


def _is_harmless(op: str) -> bool:
    return op in _HARMLESS or "Dataset" in op or op.startswith(_PREFIXES)


def _is_parallel(dataset: Any) -> bool:
    return kind_of(type(dataset).__name__) in _PARALLEL


def _runs_in_parallel(function: Any) -> bool:
    """Returns whether a function makes a dataset that calls others in parallel."""
    return any(kind_of(node.op) in _PARALLEL for node, _ in nodes_of(function))


def _check_order(parts: Parts) -> None:
    """Refuses what gives elements in an order that nobody determines.

    Raises:
        StateError: If something does.
    """
    root = parts.datasets[0]
    is_loose = root.options().deterministic is False
    for dataset in parts.datasets:
        own = getattr(dataset, "_deterministic", None)
        if own == "false" or (is_loose and own is not None):
            raise StateError(
                f"{type(dataset).__name__.strip('_')} with deterministic=False gives "
                "its elements in another order each time; leave that out"
            )


def _check_sources(parts: Parts, reasons: list[str]) -> None:
    """Refuses what TensorFlow seeds by chance, or lets live on in a cache.

    Raises:
        StateError: If there is something.
    """
    for dataset in parts.datasets:
        kind = kind_of(type(dataset).__name__)
        if kind == "random" and getattr(dataset, "_rerandomize", False):
            raise StateError(
                "Dataset.random(rerandomize_each_iteration=True) can't be put back; "
                "use shuffle(), or tf.random.stateless_* with the element's index"
            )
        seeds: list[Any] = [getattr(dataset, key, None) for key in ("_seed", "_seed2")]
        is_by_chance = all(tf.is_tensor(seed) and not int(seed) for seed in seeds)
        if is_by_chance and reasons:
            raise StateError(
                f"{kind}() has no seed, and this pipeline is continued by reading an "
                f"epoch again ({', '.join(reasons)}); give it a seed=, or call "
                "tf.keras.utils.set_random_seed(n) before the pipeline is made"
            )
        if kind == "cache":
            _check_cache(dataset)
        if kind == "variant":
            _check_variant(dataset)


def _check_variant(dataset: Any) -> None:
    """Refuses a dataset made of a variant, which hides what it reads from.

    Raises:
        StateError: If that may have seeds or a state.
    """
    graph = tf.compat.v1.GraphDef.FromString(dataset._as_serialized_graph().numpy())
    kinds = {node.op for node in graph.node if "Dataset" in node.op}
    found = {kind_of(kind) for kind in kinds}
    if "shuffle" in found or found - PROVEN or graph.library.function:
        raise StateError(
            f"from_variant() or choose_from_datasets() hides {', '.join(sorted(kinds))}"
            ", whose seeds and state can't be followed; use the tf.data.Dataset that "
            "the variant was made of, and choose by one without shuffle() or functions"
        )


def _check_cache(cache: Any) -> None:
    """Refuses a cache of what is drawn once, when the first epoch is read.

    Raises:
        StateError: If what it holds can't be made again.
    """
    below = _below(cache)
    drawn = [d for d in below if getattr(d, "_reshuffle_each_iteration", None)]
    if drawn:
        raise StateError(
            "cache() behind shuffle() keeps the order of the first epoch, which is "
            "lost with the process; use shuffle(..., reshuffle_each_iteration=False) "
            "there, or call cache() before shuffle()"
        )
    for dataset in below:
        for wrapper in dataset._functions():
            place = where(wrapper._func)
            if set(_stateful(wrapper.function, place)) - {_SHUFFLE_INSIDE}:
                raise StateError(
                    f"{place}: cache() keeps the random numbers that this function "
                    "draws in the first epoch, and they are lost with the process; "
                    "call cache() before it"
                )


def _below(dataset: Any) -> list[Any]:
    found, queue = [], list(dataset._inputs())
    while queue:
        found.append(queue.pop())
        queue.extend(found[-1]._inputs())
    return found


def _python_function(dataset: Any, function: Any) -> Any:
    for wrapper in dataset._functions():
        if wrapper.function is function:
            return wrapper._func
    return function


def _refuse_python(place: str) -> None:
    """Says that Python code keeps its state to itself.

    Raises:
        StateError: Always.
    """
    raise StateError(
        f"{place}: Python code inside a tf.data pipeline (py_function, numpy_function, "
        "from_generator) may keep a state that nobody can save; use TensorFlow's "
        "operations there, or pass a PyDataset to fit"
    )
