"""Everything that changes during training, under one roof.

    state = TrainState(model=model, optimizer=optimizer, data=dataset)
    checkpointer.restore_or_initialize(state)
    for batch in dataset.from_step(state.step):
        train_step(batch)
        state.step += 1
        checkpointer.maybe_save(state)

`step` is the number of completed training steps; the next batch is `batch(step)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import tensorflow as tf

from resumable_tf.errors import StateError
from resumable_tf.state._tensorflow import traced_functions
from resumable_tf.state.coverage import FunctionCheck, check_function, identities
from resumable_tf.state.global_random import GlobalRandom, global_variables
from resumable_tf.state.hidden import (
    ATTRIBUTES_ROOT,
    UNTRACKED,
    HiddenGenerators,
    counters_of,
    hidden_variables,
    variables_beside,
)
from resumable_tf.state.inventory import Entry, entry_of
from resumable_tf.state.keras_objects import (
    build_optimizer,
    is_model,
    is_optimizer,
    members,
    refresh,
    variables_of,
)
from resumable_tf.state.leaf import (
    checkpoint_options,
    is_keras_variable,
    is_variable,
    tensorflow_variable,
)
from resumable_tf.state.object_graph import ObjectGraph, add_variables, walk
from resumable_tf.state.python_state import (
    as_trackable,
    check_trackable,
    has_python_state,
)
from resumable_tf.state.replicas import (
    REPLICAS,
    add_components,
    assign_components,
    holder_module,
    make_holders,
)
from resumable_tf.state.restored import is_of_one_device, restore_values
from resumable_tf.state.snapshot import Snapshot, optimizers_in
from resumable_tf.state.step_count import StepCount, whole_step

_GLOBAL_RANDOM = "global_random"
_RESERVED = {UNTRACKED, ATTRIBUTES_ROOT, REPLICAS, _GLOBAL_RANDOM}
_RESERVED |= {"save_counter", "step", "extra", "root"}


class DescribesItself(Protocol):
    """Data whose identity can be compared: what `TrainState(data=...)` needs."""

    def describe(self) -> dict[str, Any]:
        """Returns JSON values that are equal for equal data, in equal order."""


class TrainState:
    """Model, optimizer and all else that a training step changes.

    Attributes:
        step: Completed training steps.
        extra: JSON values to be kept in the manifest (loop counters and the like).
        trackables: The objects handed in, by name.
        data: What describes the data, None without.
        also_saved: Returns variables that are saved by other means.
    """

    def __init__(
        self,
        *,
        data: DescribesItself | None = None,
        global_random: bool = True,
        **trackables: Any,
    ) -> None:
        """Takes the objects over; builds optimizers that are not built yet.

        Args:
            data: Anything with `describe()`; a resumed run must have the same. What
                TensorFlow can save besides (a `ResumableIterator`) is saved as `data`.
            global_random: Whether the random generators that belong to the whole
                process are saved and put back: Python's `random`, `np.random`, and
                those behind `tf.random.*` and `keras.random.*`.
            **trackables: What is saved, each under its own name: models, optimizers,
                metrics, variables, modules, generators, lists and dictionaries of
                these; random generators of Python and NumPy; objects with methods
                `state()` and `load_state(state)`.

        Raises:
            TypeError: If `data` can't be described or an object can't be saved.
            ValueError: If a name is taken by the checkpoint itself.
            StateError: If an optimizer is not built and can't be built here.
        """
        if data is not None and not hasattr(data, "describe"):
            raise TypeError(
                f"data={type(data).__name__} has no describe(); pass a RecordDataset, "
                "or any object whose describe() returns a dict of JSON values"
            )
        if isinstance(data, tf.train.experimental.PythonState):
            trackables = {"data": data, **trackables}
        saved = [obj for obj in trackables.values() if has_python_state(obj)]
        trackables = {name: as_trackable(name, obj) for name, obj in trackables.items()}
        for name, obj in trackables.items():
            if name in _RESERVED:
                raise ValueError(f"the name {name!r} is taken by the checkpoint itself")
            check_trackable(name, obj)
        self._step = 0
        self._watched: list[Any] = []
        self.extra: dict[str, Any] = {}
        self.trackables: dict[str, Any] = dict(trackables)
        self._random = GlobalRandom() if global_random else None
        if self._random is not None:
            self.trackables[_GLOBAL_RANDOM] = self._random
        self.data = data
        models = [obj for obj in self._members() if is_model(obj)]
        for obj in self._members():
            if is_optimizer(obj):
                build_optimizer(obj, models[0] if len(models) == 1 else None)
        self._saved = saved
        self.also_saved: Callable[[], list[Any]] = list
        self.begin()

    @property
    def step(self) -> int:
        """Completed training steps."""
        return self._step

    @step.setter
    def step(self, step: Any) -> None:
        """Takes a whole number, also one of NumPy or TensorFlow.

        Raises:
            TypeError: If it is no whole number.
            ValueError: If it is negative.
        """
        self._step = whole_step(step)

    def begin(self) -> None:
        """Notes what there is when training begins or goes on.

        `Checkpointer.restore_or_initialize` calls it: what is made later can't be
        restored into, and what was drawn before is no part of the training.
        """
        self._hidden = hidden_variables(self.trackables)
        self._generators = HiddenGenerators(self.trackables, iter(self._saved))
        self._functions = FunctionCheck()
        self._count = StepCount()

    def checkpoint(self) -> Any:
        """Returns a `tf.train.Checkpoint` over the live objects.

        It has every object under its own name and, as the list `untracked`, the
        variables that the object graph does not reach (Keras 3's seeds and metrics).
        """
        return tf.train.Checkpoint(**self._roots())

    def inventory(self) -> list[Entry]:
        """Returns what a checkpoint holds, under TensorFlow's own keys.

        Raises:
            StateError: If something that changes can't be saved.
        """
        # What was added or deleted since training began shows before a restore.
        self._hidden = hidden_variables(self.trackables)
        return self._entries(self._graph())

    def variables(self) -> list[Any]:
        """Returns every variable of the state, and those of each replica."""
        return [n.obj for n in self._graph().nodes if is_variable(n.obj)]

    def optimizers(self) -> dict[str, str]:
        """Returns the class of each optimizer, by its path in the object graph."""
        return optimizers_in(self._graph())

    def readers(self) -> Iterator[tuple[Entry, Any, Callable[[], Any]]]:
        """Yields every entry with the object it belongs to and what reads its value."""
        graph = self._graph()
        for entry, value in zip(self._entries(graph), graph.values, strict=True):
            yield entry, value.node.obj, value.leaf.read

    def watch(self, *functions: Any) -> None:
        """Lets the first save refuse more of what these functions use.

        Without it each `tf.function` that changes the state is refused if it changes
        other variables or draws from a random state that can't be saved. With it also
        if it only reads another variable.

        Args:
            *functions: Compiled training steps (`tf.function`).

        Raises:
            TypeError: If one is no `tf.function`.
        """
        for function in functions:
            if not hasattr(function, "get_concrete_function"):
                raise TypeError(f"{function!r} is no tf.function; decorate it first")
        self._watched.extend(functions)

    def check_counted(self) -> None:
        """Refuses a loop that trains without counting its steps.

        Raises:
            UsageError: If `step` goes back, or stands still while training goes on.
        """
        self._count.check(self.step, self._progress)

    def capture(self) -> Snapshot:
        """Returns a consistent copy of all values as they are now.

        On a CPU the copy shares the variables' memory until they are next updated;
        on other devices the values are copied to the host.

        Raises:
            StateError: If something that changes can't be saved, or if this is called
                inside a `tf.function`.
        """
        if not tf.executing_eagerly():
            raise StateError(
                "a checkpoint was asked for inside a tf.function; save between steps"
            )
        graph = self._graph()
        self._check_functions(graph)
        self._generators.check()
        return Snapshot(graph)

    def apply(
        self, path: str, inventory: Mapping[str, tuple[tuple[int, ...], str]]
    ) -> None:
        """Reads a checkpoint into the live objects, strictly.

        Args:
            path: The checkpoint's prefix, on a file system TensorFlow can read.
            inventory: Shape and dtype of each of its keys.

        Raises:
            AssertionError: If an object or a value finds no counterpart.
        """
        holders = make_holders(inventory)
        graph = self._graph()
        if is_of_one_device(graph) and not holders:
            restore_values(graph, path, inventory)
        else:
            roots = self._roots()
            if holders:
                roots[REPLICAS] = holder_module(holders)
            status = tf.train.Checkpoint(**roots).restore(path, checkpoint_options())
            status.assert_consumed()
            assign_components(graph, holders)
        for obj in self._members():
            refresh(obj)
        if self._random is not None:
            self._random.put_back()

    def describe_data(self) -> dict[str, Any] | None:
        """Returns the data's description, None without data."""
        return None if self.data is None else dict(self.data.describe())

    def position(self) -> tuple[int | None, int | None]:
        """Returns the epoch and the batch in it that come next, None if unknown.

        A loop's own counters (`extra["epoch"]`, `extra["batch"]`) win over those
        computed from the data's `position(step)` or `steps_per_epoch`.
        """
        epoch, batch = self.extra.get("epoch"), self.extra.get("batch")
        position = getattr(self.data, "position", None)
        if epoch is None and batch is None and position is not None:
            epoch, batch = position(self.step)
            return epoch, batch
        per_epoch = getattr(self.data, "steps_per_epoch", None)
        if epoch is None and batch is None and per_epoch:
            epoch = int(self.step / per_epoch)
            batch = self.step - math.ceil(epoch * per_epoch)
        return epoch, batch

    def epoch_of(self, step: int) -> int | None:
        """Returns the epoch of the batch after `step`, None if the data can't tell."""
        if "epoch" in self.extra or "batch" in self.extra:
            return None
        position = getattr(self.data, "position", None)
        if position is not None:
            return int(position(step)[0])
        per_epoch = getattr(self.data, "steps_per_epoch", None)
        return int(step / per_epoch) if per_epoch else None

    @property
    def can_continue_data(self) -> bool:
        """Whether the data can go on with another batch size."""
        return hasattr(self.data, "continue_from")

    def continue_data(self, saved: Mapping[str, Any] | None) -> None:
        """Lets the data count from where a restored run is, if it can do so.

        Args:
            saved: What the data said about itself when the run was saved.
        """
        if saved is not None and self.can_continue_data:
            self.data.continue_from(saved, self.step)  # type: ignore[union-attr]

    def _members(self) -> Iterator[Any]:
        return members(self.trackables.values())

    def _progress(self) -> tuple[Any, ...]:
        """Returns what moves with each training step, () if nothing is known to."""
        found = tuple(
            int(tensorflow_variable(obj.iterations).numpy())
            for obj in self._members()
            if is_optimizer(obj)
        )
        names = [name for name in ("epoch", "batch") if hasattr(self.data, name)]
        return found or tuple(getattr(self.data, name) for name in names)

    def _check_functions(self, graph: ObjectGraph) -> None:
        """Looks at what functions have been traced to."""
        own = [n.obj for n in graph.nodes if is_variable(n.obj)]
        owned = identities(map(tensorflow_variable, own))
        others = [*self.also_saved(), *counters_of(self._members())]
        others += global_variables() if self._random is not None else []
        known = owned | identities(map(tensorflow_variable, others))
        waiting = []
        for function in self._watched:
            traces = traced_functions(function)
            for traced in traces:
                check_function(traced, covered=lambda v: id(v) in known)
            if not traces:
                waiting.append(function)
        self._watched = waiting
        self._functions.check(owned=owned, known=known)

    def _roots(self) -> dict[str, Any]:
        return {**self.trackables, **self._beside(walk(self.trackables))}

    def _beside(self, graph: ObjectGraph) -> dict[str, dict[str, Any]]:
        """Returns the variables that a graph does not reach, by name, by root."""
        return variables_beside(graph, self._members(), self._hidden)

    def _graph(self) -> ObjectGraph:
        graph = walk(self.trackables)
        for root, variables in self._beside(graph).items():
            add_variables(graph, root, variables)
        shared: set[int] = set()
        for obj in self._members():
            if is_optimizer(obj):
                shared.update(id(variable) for variable in variables_of(obj))
            elif is_model(obj):
                shared.update(id(variable) for variable in obj.trainable_variables)
        add_components(graph, shared=shared)
        return graph

    def _entries(self, graph: ObjectGraph) -> list[Entry]:
        owners: dict[int, str] = {}
        named = [(name, m) for name, o in self.trackables.items() for m in members([o])]
        for name, obj in named:
            for variable in variables_of(obj):
                # A distributed variable answers an unknown attribute with a reduction.
                is_keras = is_keras_variable(variable)
                label = variable.path if is_keras else getattr(variable, "name", "")
                owners.setdefault(id(variable), f"{name}: {label}")
        return [
            entry_of(value, owners.get(id(value.node.obj), value.node.path))
            for value in graph.values
        ]
