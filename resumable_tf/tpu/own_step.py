"""Loads a step of the user's own for the compile check.

    own = load_own_step("my_training:make_step")
    trace = own.for_batch(64)

`make_step` is called with the compile-only strategy in force
(`tf.distribute.get_strategy()`) and returns the step and its inputs:

    def make_step(batch_size):
        strategy = tf.distribute.get_strategy()
        model, optimizer = ...
        def replica_step(x, y): ...
        @tf.function
        def step(x, y):
            return strategy.run(replica_step, args=(x, y))
        rows = batch_size // strategy.num_replicas_in_sync
        return step, (tf.TensorSpec([rows, 8]), tf.TensorSpec([rows], tf.int32))

The inputs are tensors or specs of what one replica gets. `batch_size` may be left out
of the signature; then the step fixes its own.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from resumable_tf.errors import UsageError
from resumable_tf.tpu.compile_only_strategy import CompileOnlyStrategy
from resumable_tf.tpu.lowering import TraceStep

_PARAMETER = "batch_size"


@dataclass(frozen=True)
class OwnStep:
    """A function that makes a step.

    Attributes:
        name: As it was given.
        make_step: The function.
    """

    name: str
    make_step: Callable[..., Any]

    @property
    def takes_batch_size(self) -> bool:
        """Whether the batch size can be chosen."""
        return _PARAMETER in inspect.signature(self.make_step).parameters

    def for_batch(self, batch_size: int | None) -> TraceStep:
        """Returns what traces the step.

        Args:
            batch_size: Rows over all replicas; the step's own if None.

        Raises:
            UsageError: If the step takes no batch size.
        """
        if batch_size is not None and not self.takes_batch_size:
            raise UsageError(
                f"--batch-size {batch_size} has no effect: {self.name} has no "
                f"parameter {_PARAMETER}.\nAdd one, or leave the flag out."
            )
        given = {} if batch_size is None else {_PARAMETER: batch_size}

        def trace(strategy: CompileOnlyStrategy) -> None:
            step, inputs = self._make(given)
            function = step if hasattr(step, "get_concrete_function") else None
            function = function or tf.function(step)
            function.get_concrete_function(*inputs)

        return trace

    def _make(self, given: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
        """Returns the step and its inputs.

        Raises:
            UsageError: If the function returns anything else.
        """
        made = self.make_step(**given)
        if not isinstance(made, tuple) or len(made) != 2 or not callable(made[0]):
            raise UsageError(
                f"{self.name} returned {type(made).__name__}; expected a pair: the "
                "step function, and a tuple of its inputs (tensors or tf.TensorSpec)."
            )
        step, inputs = made
        return step, tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)


def load_own_step(name: str) -> OwnStep:
    """Imports `module:function`, with the working directory on the path.

    Raises:
        UsageError: If there is no such module or function.
    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise UsageError(
            f"{name!r} is not of the form module:function.\n"
            "Use one such as my_training:make_step."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.split(".")[0] and error.name != module_name:
            raise
        raise UsageError(
            f"{name!r}: there is no module {module_name!r} in {os.getcwd()} or among "
            "the installed ones.\nRun the command in the directory that holds it."
        ) from error
    make_step = getattr(module, function_name, None)
    if not callable(make_step):
        raise UsageError(
            f"{name!r}: {module_name} has no function {function_name!r}.\n"
            "Name the function that returns the step and its inputs."
        )
    return OwnStep(name, make_step)
