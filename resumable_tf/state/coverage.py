"""What a compiled step changes, compared with what the state holds.

    check_function(concrete_function, covered=lambda variable: id(variable) in known)

A traced graph knows every variable that a training step reads or writes, whoever made
it. One that the state does not hold would be lost at a resume without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from resumable_tf.errors import StateError
from resumable_tf.state.leaf import replica_components

_RANDOM_OPS = frozenset(
    {
        "Multinomial",
        "ParameterizedTruncatedNormal",
        "RandomGamma",
        "RandomPoisson",
        "RandomPoissonV2",
        "RandomShuffle",
        "RandomStandardNormal",
        "RandomUniform",
        "RandomUniformInt",
        "TruncatedNormal",
    }
)
_NUM_SHOWN = 5


def check_function(function: Any, *, covered: Callable[[Any], bool]) -> None:
    """Refuses a traced function that uses what a checkpoint would not hold.

    Args:
        function: A `ConcreteFunction`.
        covered: Tells whether a TensorFlow variable is part of the state.

    Raises:
        StateError: If it uses another variable, or draws random numbers whose
            generator lives in the graph.
    """
    variables = [v for v in function.graph.variables if not covered(v)]
    if variables:
        names = [f"{v.name} {tuple(v.shape)}" for v in variables]
        raise StateError(
            f"the training step uses {len(names)} variables that are not part of the "
            f"training state: {_shown(names)}. Make them attributes of the model or "
            "of one of its layers, or pass the object that owns them to the state"
        )
    ops = sorted(set(_random_nodes(function)))
    if ops:
        raise StateError(
            f"the training step draws random numbers from {len(ops)} hidden states "
            f"that can't be saved: {_shown(ops)}. Use keras.random with a "
            "SeedGenerator, a tf.random.Generator or tf.random.stateless_* there; for "
            "layers of tf_keras call "
            "tf.keras.backend.experimental.enable_tf_random_generator() before the "
            "model is built"
        )


def identities(variables: Iterator[Any]) -> set[int]:
    """Returns `id` of TensorFlow variables and of their parts on each replica."""
    found = set()
    for variable in variables:
        for part in (variable, *replica_components(variable)):
            found.add(id(part))
            # In mixed precision tf_keras wraps the variable that TensorFlow knows.
            # Not by getattr: a distributed variable would first reduce its parts.
            found.add(id(vars(part).get("_variable", part)))
    return found


def _random_nodes(function: Any) -> Iterator[str]:
    graph_def = function.graph.as_graph_def()
    nodes = [graph_def.node, *(f.node_def for f in graph_def.library.function)]
    for node in (node for group in nodes for node in group):
        if node.op in _RANDOM_OPS:
            yield f"{node.name} ({node.op})"


def _shown(names: list[str]) -> str:
    more = len(names) - _NUM_SHOWN
    return ", ".join(names[:_NUM_SHOWN]) + (f" and {more} more" if more > 0 else "")
