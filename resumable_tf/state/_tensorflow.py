"""Private names of TensorFlow and Keras: the only place that touches them.

    seed, generator = eager_seed()          # what tf.random.* draws its seeds from
    for function in compiled_functions():   # every live tf.function
        ...

Where a version keeps them elsewhere, an error says so, before anything is saved.
"""

from __future__ import annotations

import functools
import gc
import importlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from resumable_tf.errors import StateError

_KERAS_STATE = "keras.src.backend.common.global_state"
_KERAS_GENERATOR = "global_seed_generator"
_TF_KERAS_BACKEND = "tf_keras.src.backend"
_MISSING = object()


def private(module: str, name: str) -> Any:
    """Returns a private object.

    Args:
        module: The module that has it.
        name: What it is called there.

    Raises:
        StateError: If this version of the library keeps it elsewhere.
    """
    try:
        found = getattr(importlib.import_module(module), name, _MISSING)
    except ImportError:
        found = _MISSING
    if found is _MISSING:
        raise StateError(
            f"{module}.{name} is not there in this version "
            f"({_version_of(module)}); TensorFlow 2.19 to 2.21, Keras 3 to 3.15 and "
            "tf_keras 2.19 to 2.21 are known"
        )
    return found


def _version_of(module: str) -> str:
    package = module.split(".")[0]
    return f"{package} {getattr(sys.modules.get(package), '__version__', 'unknown')}"


def _context() -> Any:
    found = private("tensorflow.python.eager.context", "context")()
    for name in ("_seed", "clear_kernel_cache", "context_switches"):
        if not hasattr(found, name):
            raise StateError(
                f"TensorFlow {tf.__version__} keeps its eager context's {name} "
                "elsewhere; 2.19 to 2.21 are known"
            )
    return found


def eager_seed() -> tuple[int | None, random.Random | None]:
    """Returns the global seed of TensorFlow, and what draws seeds of operations."""
    context = _context()
    # It is made together with the seed.
    own = getattr(context, "_rng", None)
    return (None if context._seed is None else int(context._seed)), own


def set_eager_seed(seed: int | None, state: Any) -> None:
    """Puts both back.

    Args:
        seed: The global seed.
        state: Of the generator, as `random.Random.getstate` gives it.
    """
    context = _context()
    context._seed = seed
    if state is not None:
        context._rng = random.Random()
        context._rng.setstate(state)
    # An operation that has drawn from the same seed before would go on.
    context.clear_kernel_cache()


def is_tracing() -> bool:
    """Returns whether a `tf.function` is being traced, also inside `init_scope`."""
    stack = _context().context_switches.stack
    return any(entry.is_building_function for entry in stack)


def global_generator() -> Any:
    """Returns what `tf.random.get_global_generator` has made, None without."""
    return private("tensorflow.python.ops.stateful_random_ops", "global_generator")


def keras_seed_generator() -> Any:
    """Returns what Keras 3 draws from without a seed, None if it has not yet."""
    if _KERAS_STATE not in sys.modules:
        return None
    return private(_KERAS_STATE, "get_global_attribute")(_KERAS_GENERATOR)


def make_keras_seed_generator() -> Any:
    """Returns it, made if need be."""
    module = "keras.src.random.seed_generator"
    return private(module, _KERAS_GENERATOR)()


def forget_keras_seed_generator() -> None:
    """Lets Keras 3 make another when it is next needed."""
    private(_KERAS_STATE, "set_global_attribute")(_KERAS_GENERATOR, None)


def tf_keras_generator() -> random.Random | None:
    """Returns what tf_keras draws seeds from once it was given one itself."""
    if _TF_KERAS_BACKEND not in sys.modules:
        return None
    own = private(_TF_KERAS_BACKEND, "_SEED_GENERATOR")
    found: random.Random | None = getattr(own, "generator", None)
    return found


def set_tf_keras_generator(state: Any) -> None:
    """Gives tf_keras such a generator, in a state."""
    own = private(_TF_KERAS_BACKEND, "_SEED_GENERATOR")
    own.generator = random.Random()
    own.generator.setstate(state)


def compiled_functions() -> Iterator[Any]:
    """Yields every live `tf.function`, but for those inside of datasets.

    Python's garbage collector looks at each object of the process: some 30 ms.
    """
    kind = private(
        "tensorflow.python.eager.polymorphic_function.polymorphic_function", "Function"
    )
    # An object refers to its class.
    for obj in gc.get_referrers(kind, *kind.__subclasses__()):
        if not issubclass(type(obj), kind):
            continue
        if "_tf_data_function" not in (getattr(obj, "_attributes", None) or {}):
            yield obj


def traced_functions(function: Any) -> list[Any]:
    """Returns what a `tf.function` was traced to; traces nothing.

    Args:
        function: A `tf.function`.

    Raises:
        StateError: If this version of TensorFlow keeps it elsewhere.
    """
    cache: Any = getattr(function, "_function_cache", _MISSING)
    if cache is _MISSING:
        raise StateError(
            f"TensorFlow {tf.__version__} keeps the traces of a tf.function "
            "elsewhere; 2.19 to 2.21 are known"
        )
    return list(cache.values())


def outermost_graph() -> Any:
    """Returns the graph that is being traced, the one around all others."""
    graph = tf.compat.v1.get_default_graph()
    while getattr(getattr(graph, "outer_graph", None), "building_function", False):
        graph = graph.outer_graph
    return graph


def is_outermost(traced: Any) -> bool:
    """Returns whether a traced function is not part of another's trace."""
    return not getattr(traced.graph.outer_graph, "building_function", False)


def live_variables(graph: Any) -> list[Any]:
    """Returns the variables of a traced graph that are not deleted yet.

    Args:
        graph: A `FuncGraph`; its own list refuses to be read once one is gone.

    Raises:
        StateError: If this version of TensorFlow keeps them elsewhere.
    """
    weak = getattr(graph, "_weak_variables", None)
    if weak is None:
        raise StateError(
            f"TensorFlow {tf.__version__} keeps the variables of a graph elsewhere; "
            "2.19 to 2.21 are known"
        )
    return [variable for ref in weak if (variable := ref()) is not None]


def written_variables(traced: Any) -> list[Any]:
    """Returns the variables that a traced function may assign to.

    Args:
        traced: A `ConcreteFunction`.
    """
    indices = private(
        "tensorflow.python.framework.auto_control_deps_utils",
        "get_read_only_resource_input_indices_graph",
    )(traced.graph)
    read_only = {id(traced.graph.inputs[index]) for index in indices}
    inside = {id(outer): id(inner) for outer, inner in traced.graph.captures}
    variables = []
    for variable in live_variables(traced.graph):
        placeholder = inside.get(id(variable.handle))
        if placeholder is not None and placeholder not in read_only:
            variables.append(variable)
    return variables


def watch_seeds(note: Callable[[int | None, bool], None]) -> None:
    """Lets `note` hear of each random operation that is made, once in a process.

    Args:
        note: Gets the operation's own seed, and whether TensorFlow has a global one.
    """
    module = importlib.import_module("tensorflow.python.framework.random_seed")
    original = private(module.__name__, "get_seed")
    if hasattr(original, "_resumable_original"):
        original = original._resumable_original

    @functools.wraps(original)
    def get_seed(op_seed: Any) -> Any:
        seeds = original(op_seed)
        # Datasets ask too, and have no kernel of that seed.
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.startswith("tensorflow.python.ops."):
            note(op_seed, seeds[0] is not None)
        return seeds

    get_seed._resumable_original = original  # type: ignore[attr-defined]
    module.get_seed = get_seed  # type: ignore[attr-defined]
