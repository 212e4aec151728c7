"""Where `fit` stands in its data, and how it gets there again.

    data = FitData(call)
    data.install(on_first_batch=...)        # takes Keras' place in making iterators
    data.resume(record, batch=155)          # before the first epoch
    ...
    record = data.capture(batch=155)

A pipeline of TensorFlow operations is put back as `resumable_tf.data.pipeline` does it;
one that calls Python (PyDataset, generators) by making the same iterator again and
reading the batches that were consumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from resumable_tf.data.dataset_form import describe_dataset
from resumable_tf.data.pipeline import Pipeline
from resumable_tf.errors import StateError
from resumable_tf.state.global_random import global_random, set_global_random
from resumable_tf.state.python_objects import AttributeTracker
from resumable_tf.training.keras.fit_call import FitCall
from resumable_tf.training.keras.iterators import Iterators

_ARRAYS = {"ArrayDataAdapter", "TensorLikeDataAdapter", "DataFrameDataAdapter"}
_ARRAYS |= {"CompositeTensorDataAdapter"}
_REPLAYED = {"PyDatasetAdapter", "KerasSequenceAdapter", "GeneratorDataAdapter"}
_REPLAYED |= {"GenericArrayLikeDataAdapter"}

# What Keras itself keeps in a PyDataset.
_LIBRARY_ATTRIBUTES = {"_workers", "_use_multiprocessing", "_max_queue_size"}

Record = dict[str, Any]


class FitData:
    """The batches of one call of `fit`.

    Attributes:
        adapter: Name of the class by which Keras reads the user's data.
        uses_replay: Whether Python code has to give the same batches once more.
        iterators: Makes the iterators.
        first_batch: Where the running epoch began in this process.
    """

    def __init__(self, call: FitCall) -> None:
        """Looks at the data; changes nothing.

        Args:
            call: The running `fit`.

        Raises:
            StateError: If the data is of a kind that can't be put back.
        """
        self._loop, self._model = call.loop, call.model
        self._is_keras_3 = call.is_keras_3
        adapter = call.loop.data_adapter if call.is_keras_3 else call.loop._adapter
        self.adapter = type(adapter).__name__
        self.uses_replay = self.adapter in _REPLAYED
        self._dataset = _plain_dataset(call, adapter)
        # Keras 3 shuffles all indices in one element, which the state then holds.
        is_drawn_once = (
            call.is_keras_3 and getattr(adapter, "_shuffle", None) != "batch"
        )
        self._pipeline = Pipeline(
            self._dataset,
            is_replayed_by=self.adapter if self.uses_replay else None,
            trusts_random=self.adapter in _ARRAYS and is_drawn_once,
        )
        self.iterators = Iterators(self._dataset, self._pipeline)
        self.first_batch = 0
        self._iterator: Any = None
        self._consumed = 0
        self._is_live = False
        self._resumed: tuple[Record, int] | None = None
        self._initial_epoch: int | None = None
        self._drawn: Record | None = None
        self._on_first_batch: Callable[[], None] = lambda: None
        self._source = AttributeTracker(
            _source_of(adapter), name=self.adapter, ignored=_LIBRARY_ATTRIBUTES
        )
        self._before: Record = self._source_state()

    @property
    def element_spec(self) -> Any:
        """The types and shapes of a batch."""
        return self._dataset.element_spec

    @property
    def num_batches(self) -> int | None:
        """Batches of an epoch, None if Keras does not know it yet."""
        if self._is_keras_3:
            return self._loop.num_batches  # type: ignore[no-any-return]
        return self._loop.inferred_steps  # type: ignore[no-any-return]

    def describe(self) -> dict[str, Any]:
        """Returns what must be equal for a position to mean the same."""
        cardinality = int(self._dataset.cardinality())
        return {
            "adapter": self.adapter,
            "element_spec": repr(self._dataset.element_spec),
            "cardinality": cardinality,
            "steps_per_epoch": self._steps_per_epoch,
            "pipeline": describe_dataset(self._dataset),
        }

    def install(self, *, on_first_batch: Callable[[], None]) -> None:
        """Takes Keras' place in making iterators and counting batches.

        Args:
            on_first_batch: Called right before the first batch of a resumed epoch.
        """
        self._on_first_batch = on_first_batch
        if self._is_keras_3:
            self._loop._get_iterator = lambda: self.iterators
            original = self._loop._enumerate_iterator
            self._loop._enumerate_iterator = lambda: self._keras_3_epoch(original())
        else:
            self._loop._dataset = self.iterators
            epochs, steps = self._loop.enumerate_epochs, self._loop.steps
            self._loop.enumerate_epochs = lambda: self._tf_keras_epochs(epochs())
            self._loop.steps = lambda: self._tf_keras_steps(steps)

    def begin_at(self, epoch: int) -> None:
        """Makes `fit` begin with another epoch; with `epochs` for none at all."""
        self._initial_epoch = epoch
        if self._is_keras_3:
            self._model._initial_epoch = epoch

    def resume(self, record: Record, *, batch: int) -> None:
        """Lets the first epoch begin where a checkpoint was taken.

        Args:
            record: What `capture` returned.
            batch: Batches of the epoch that are done.
        """
        if record["num_batches"] is not None and self.num_batches is None:
            if self._is_keras_3:
                self._loop._num_batches = record["num_batches"]
            else:
                self._loop._inferred_steps = record["num_batches"]
        self._resumed = record, batch
        self.iterators.put_back(record["position"]["start"])

    def capture(self, *, batch: int) -> Record:
        """Returns how to get to the next batch again.

        Args:
            batch: Batches of this epoch that are done; 0 at an epoch's end.

        Returns:
            A storable record.
        """
        record: Record = {
            "num_batches": self.num_batches,
            "seen": getattr(self._loop, "_steps_seen", 0),
            "is_live": self._is_live,
            "source": self._before,
        }
        if batch or self._is_live:
            record["position"] = self._pipeline.position(
                self._iterator,
                self.iterators.start_of(self._iterator),
                num_read=self._consumed,
            )
        else:
            record["position"] = self._pipeline.beginning(self._next_start())
            if self.uses_replay:
                record["source"] = self._source_state()
        return record

    def _next_start(self) -> Record:
        """Returns what the iterator of the next epoch is made from."""
        made = getattr(self._loop, "_current_iterator", None)
        is_used = self._is_keras_3 and self._steps_per_epoch is not None
        if is_used and made is not None and made is not self._iterator:
            # Keras has made it at the end of this epoch already.
            return self.iterators.start_of(made)
        return self._pipeline.start()

    def end_epoch(self) -> None:
        """Notes that an epoch is over: does the next one use the same iterator?"""
        current = getattr(self._loop, "_current_iterator", None)
        if self._is_keras_3:
            is_kept = self._steps_per_epoch is not None
            self._is_live = is_kept and current is self._iterator
        else:
            self._is_live = not self._loop._adapter.should_recreate_iterator()

    @property
    def _steps_per_epoch(self) -> int | None:
        name = "steps_per_epoch" if self._is_keras_3 else "_steps_per_epoch"
        found: int | None = getattr(self._loop, name)
        return found

    def _keras_3_epoch(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yields what Keras 3 yields, from the first batch that is not done."""
        done = self._resumed[1] if self._resumed else 0
        self._before_epoch()
        is_first = True
        for begin, end, iterator in batches:
            if begin < done:
                continue
            if is_first:
                self._enter_epoch(iterator, done)
                is_first = False
            self._consumed += end - begin + 1
            yield begin, end, iterator

    def _tf_keras_epochs(self, epochs: Iterator[Any]) -> Iterator[Any]:
        if self._initial_epoch is not None:
            self._loop._initial_epoch = self._initial_epoch
        is_resumed = self._resumed is not None and bool(self._initial_epoch)
        self._before_epoch()
        if is_resumed:
            # fit calls it between two epochs only, after the checkpoint was taken.
            self._loop._adapter.on_epoch_end()
        for epoch, iterator in epochs:
            self._next_iterator = iterator
            yield epoch, iterator
            self._before_epoch()

    def _tf_keras_steps(self, steps: Callable[[], Iterator[int]]) -> Iterator[int]:
        done = self._resumed[1] if self._resumed else 0
        self._loop._initial_step = done
        is_first = True
        for step in steps():
            if is_first:
                self._enter_epoch(self._next_iterator, done)
                is_first = False
            self._consumed += self._loop.step_increment + 1
            yield step

    def _before_epoch(self) -> None:
        """Notes or puts back what an epoch's batches depend on, before its iterator."""
        if self._resumed is not None:
            record, done = self._resumed
            self._source.apply(record["source"]["attributes"])
            # At an epoch's beginning callbacks have drawn as they did before.
            is_underway = bool(done or record["is_live"])
            self._before = record["source"] if is_underway else self._source_state()
            if self.uses_replay and is_underway:
                self._drawn = global_random()
                set_global_random(record["source"]["random"])
        elif not self._is_live:
            self._before = self._source_state()

    def _source_state(self) -> Record:
        return {"attributes": self._source.changed(), "random": global_random()}

    def _enter_epoch(self, iterator: Any, done: int) -> None:
        """Puts the iterator of an epoch to its place before the first batch."""
        if iterator is not self._iterator:
            self._consumed = 0
        self._iterator = iterator
        self.first_batch = done
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            return
        self.iterators.settle()
        self._reposition(iterator, *resumed)
        if done:
            self._on_first_batch()

    def _reposition(self, iterator: Any, record: Record, done: int) -> None:
        """Moves the first iterator of this process to where the checkpoint was."""
        if not (done or record["is_live"]):
            return
        if self._is_keras_3:
            self._loop._steps_seen = record["seen"] + self._loop.steps_per_execution
        self._pipeline.move(iterator, record["position"])
        if self._drawn is not None:
            set_global_random(self._drawn)
        self._consumed += record["position"]["num_read"]


def _source_of(adapter: Any) -> Any:
    """Returns the user's own object that gives the batches, if there is one."""
    for name in ("py_dataset", "_keras_sequence"):
        if hasattr(adapter, name):
            return getattr(adapter, name)
    return _NoSource()


class _NoSource:
    """Stands for data without an object of the user's."""


def _plain_dataset(call: FitCall, adapter: Any) -> Any:
    """Returns the dataset of the host, of which replicas get parts.

    Raises:
        StateError: If there is none.
    """
    known = call.loop._distributed_dataset if call.is_keras_3 else call.loop._dataset
    if isinstance(known, tf.data.Dataset):
        return known
    get = adapter.get_tf_dataset if call.is_keras_3 else adapter.get_dataset
    dataset = get()
    if not isinstance(dataset, tf.data.Dataset):
        raise StateError(
            f"fit was given a {type(dataset).__name__}, whose position TensorFlow "
            "can't save; pass a tf.data.Dataset of global batches, which each replica "
            "gets its part of"
        )
    return dataset
