"""What a compiled step changes, compared with what the state holds.

    check_function(concrete_function, covered=lambda variable: id(variable) in known)
    FunctionCheck().check(owned=..., known=...)     # every live tf.function

A traced graph knows every variable that a training step reads or writes, whoever made
it. One that the state does not hold would be lost at a resume without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resumable_tf.errors import StateError
from resumable_tf.state._tensorflow import (
    compiled_functions,
    is_outermost,
    live_variables,
    traced_functions,
    written_variables,
)
from resumable_tf.state.draws import Draws, is_users_file
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

Covered = Callable[[Any], bool]


def check_function(function: Any, *, covered: Covered) -> None:
    """Refuses a traced function that uses what a checkpoint would not hold.

    Args:
        function: A `ConcreteFunction`.
        covered: Tells whether a TensorFlow variable is part of the state.

    Raises:
        StateError: If it uses another variable, or draws random numbers whose
            generator lives in the graph.
    """
    _check_variables([v for v in function.graph.variables if not covered(v)])
    _check_random(function, "the training step")


class FunctionCheck:
    """Looks at every `tf.function` of the program that belongs to the training."""

    def __init__(self) -> None:
        """Begins to listen; what was traced before is none of its functions."""
        self._draws = Draws()
        self._num_checks = 0
        self._num_traced = -1

    def check(self, *, owned: set[int], known: set[int]) -> None:
        """Refuses what a checkpoint would not hold.

        A function that assigns to a variable of the state must assign to no other one.
        One that only evaluates may have what it likes, but for hidden random states.
        All functions are looked for at saves 1, 2, 4, 8, ..., and when a random
        operation was traced since.

        Args:
            owned: `id` of the variables of the state.
            known: And of others that are saved by other means, which functions of
                other trainings may use too.

        Raises:
            StateError: If there is such a function.
        """
        self._draws.check()
        self._num_checks += 1
        is_new = self._draws.num_traced != self._num_traced
        self._num_traced = self._draws.num_traced
        if not is_new and self._num_checks & (self._num_checks - 1):
            return
        for function in compiled_functions():
            for traced in filter(is_outermost, traced_functions(function)):
                self._check_one(function, traced, owned, known)

    def _check_one(
        self, function: Any, traced: Any, owned: set[int], known: set[int]
    ) -> None:
        is_ours = any(id(v) in owned for v in live_variables(traced.graph))
        if not is_ours and not self._draws.are_in(traced.graph):
            return
        written = written_variables(traced)
        if any(id(variable) in owned for variable in written):
            _check_variables([v for v in written if id(v) not in known])
        _check_random(traced, _named(function))


def identities(variables: Iterator[Any]) -> set[int]:
    """Returns `id` of TensorFlow variables and of their parts on each replica."""
    found = set()
    for variable in variables:
        for part in (variable, *replica_components(variable)):
            found.add(id(part))
            # In mixed precision tf_keras wraps the variable that TensorFlow knows.
            # Not by getattr: a distributed variable would first reduce its parts.
            found.add(id(getattr(part, "__dict__", {}).get("_variable", part)))
    return found


def _check_variables(lost: list[Any]) -> None:
    if lost:
        names = [f"{v.name} {tuple(v.shape)}" for v in lost]
        raise StateError(
            f"the training step uses {len(names)} variables that are not part of the "
            f"training state: {_shown(names)}. Pass the objects that own them to "
            "TrainState (a list of metrics, say), or make them attributes of the model "
            "or of one of its layers"
        )


def _check_random(traced: Any, name: str) -> None:
    ops = sorted(set(_random_nodes(traced)))
    if ops:
        raise StateError(
            f"{name} draws random numbers from {len(ops)} hidden states "
            f"that can't be saved: {_shown(ops)}. Use "
            "tf.random.get_global_generator().normal(...) or another "
            "tf.random.Generator made before the function, keras.random.*, or "
            "tf.random.stateless_* there; for "
            "layers of tf_keras call "
            "tf.keras.backend.experimental.enable_tf_random_generator() before the "
            "model is built"
        )


def _random_nodes(function: Any) -> Iterator[str]:
    lines = {
        op.name: _users_line(op)
        for op in function.graph.get_operations()
        if op.type in _RANDOM_OPS
    }
    graph_def = function.graph.as_graph_def()
    nodes = [graph_def.node, *(f.node_def for f in graph_def.library.function)]
    for node in (node for group in nodes for node in group):
        if node.op in _RANDOM_OPS:
            yield f"{node.name} ({node.op}){lines.get(node.name, '')}"


def _users_line(operation: Any) -> str:
    """Returns " at file:line" of the user's program, "" if it is not known."""
    frames = [f for f in operation.traceback if is_users_file(f.filename)]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _named(function: Any) -> str:
    code = getattr(function.python_function, "__code__", None)
    name = getattr(function.python_function, "__name__", "a tf.function")
    is_known = code is not None and is_users_file(code.co_filename)
    where = f" of {Path(code.co_filename).name}" if code and is_known else ""
    return f"the compiled {name}{where}"


def _shown(names: list[str]) -> str:
    more = len(names) - _NUM_SHOWN
    return ", ".join(names[:_NUM_SHOWN]) + (f" and {more} more" if more > 0 else "")
