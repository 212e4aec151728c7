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
from resumable_tf.state.coverage import check_function, identities
from resumable_tf.state.hidden import HiddenState
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
from resumable_tf.state.object_graph import ObjectGraph, add_list, walk
from resumable_tf.state.python_state import (
    GlobalRandom,
    SavedObject,
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

UNTRACKED = "untracked"
"""Root name of the variables that TensorFlow's object graph does not reach."""

_RESERVED = {UNTRACKED, REPLICAS, "save_counter", "step", "extra", "root"}


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
    """

    def __init__(
        self,
        *,
        data: DescribesItself | None = None,
        python_random: bool = False,
        **trackables: Any,
    ) -> None:
        """Takes the objects over; builds optimizers that are not built yet.

        Args:
            data: Anything with `describe()`; a resumed run must have the same. What
                TensorFlow can save besides (a `ResumableIterator`) is saved as `data`.
            python_random: Whether to save the global states of Python's `random` and
                of `np.random` too.
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
        if python_random:
            trackables["python_random"] = GlobalRandom()
        saved = [obj for obj in trackables.values() if has_python_state(obj)]
        trackables = {
            name: _as_trackable(name, obj) for name, obj in trackables.items()
        }
        for name, obj in trackables.items():
            _check_trackable(name, obj)
        self.step = 0
        self._watched: list[Any] = []
        self.extra: dict[str, Any] = {}
        self.trackables: dict[str, Any] = dict(trackables)
        self.data = data
        models = [obj for obj in self._members() if is_model(obj)]
        for obj in self._members():
            if is_optimizer(obj):
                build_optimizer(obj, models[0] if len(models) == 1 else None)
        self._hidden = HiddenState(self.trackables, iter(saved))

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
        """Lets the first save refuse what these functions use and it does not hold.

        Args:
            *functions: Compiled training steps (`tf.function`). Each variable that
                they use must be part of the state, and their random numbers must come
                from generators that are.

        Raises:
            TypeError: If one is no `tf.function`.
        """
        for function in functions:
            if not hasattr(function, "_list_all_concrete_functions"):
                raise TypeError(f"{function!r} is no tf.function; decorate it first")
        self._watched.extend(functions)

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
        self._check_watched(graph)
        self._hidden.check(graph)
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

    def _check_watched(self, graph: ObjectGraph) -> None:
        """Looks once at what the watched functions have been traced to."""
        if not self._watched:
            return
        variables = (n.obj for n in graph.nodes if is_variable(n.obj))
        known = identities(map(tensorflow_variable, variables))
        for function in self._watched:
            for traced in function._list_all_concrete_functions():
                check_function(traced, covered=lambda v: id(v) in known)
        self._watched = []

    def _roots(self) -> dict[str, Any]:
        untracked = self._untracked(walk(self.trackables))
        return {**self.trackables, **({UNTRACKED: untracked} if untracked else {})}

    def _graph(self) -> ObjectGraph:
        graph = walk(self.trackables)
        untracked = self._untracked(graph)
        if untracked:
            add_list(graph, UNTRACKED, untracked)
        shared: set[int] = set()
        for obj in self._members():
            if is_optimizer(obj):
                shared.update(id(variable) for variable in variables_of(obj))
            elif is_model(obj):
                shared.update(id(variable) for variable in obj.trainable_variables)
        add_components(graph, shared=shared)
        return graph

    def _untracked(self, graph: ObjectGraph) -> list[Any]:
        reached = graph.identities()
        found: dict[int, Any] = {}
        for obj in self._members():
            for variable in variables_of(obj):
                if id(variable) not in reached:
                    found.setdefault(id(variable), variable)
        return list(found.values())

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


def _as_trackable(name: str, obj: Any) -> Any:
    """Returns what stands in a checkpoint for an object, mostly itself."""
    if has_python_state(obj):
        return SavedObject(obj, name=name)
    # Keras 3's metrics are nothing that TensorFlow tracks, but may be in a list.
    is_tracked = hasattr(obj, "_serialize_to_tensors")
    return obj if is_tracked or not variables_of(obj) else [obj]


def _check_trackable(name: str, obj: Any) -> None:
    if name in _RESERVED:
        raise ValueError(f"the name {name!r} is taken by the checkpoint itself")
    try:
        tf.train.Checkpoint(**{name: obj})
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name}={type(obj).__name__} can't be saved; pass models, optimizers, "
            "tf.Variable or tf.Module objects, random generators, objects with state() "
            "and load_state(state), and plain values in extra"
        ) from error
