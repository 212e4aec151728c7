"""The compiled training step: several steps in one call.

    train_steps = TrainSteps(model, optimizer, strategy, settings)
    losses, num_tokens = train_steps(iterator, step, num_steps)

Every replica gets its own rows of a global batch from a plain iterator (see
`replica_input`), so no distributed iterator is needed (TensorFlow can't save those),
and every batch is the same on any number of replicas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from resumable_tf.errors import UsageError
from resumable_tf.state.leaf import host_device
from resumable_tf.training.replica_input import Batch as Batch
from resumable_tf.training.replica_input import ReplicaInput, take_rows


class ReplicaContext(NamedTuple):
    """What a replica's loss may depend on beside its rows.

    Attributes:
        step: Completed steps, scalar int64.
        first_row: Index of its first row in the global batch, scalar int32.
    """

    step: Any
    first_row: Any


LossFunction = Callable[[Batch, ReplicaContext], tuple[Any, Any]]
"""Maps a replica's rows to (sum of losses, sum of losses to report), in nats."""


@dataclass(frozen=True)
class StepSettings:
    """How a global batch becomes one update.

    Attributes:
        global_batch_size: Rows a step, over all replicas.
        loss: The loss of a replica's rows, summed over tokens.
        count_tokens: Maps a global batch to its number of target tokens, float32.
    """

    global_batch_size: int
    loss: LossFunction
    count_tokens: Callable[[Batch], Any]


def rows_per_replica(global_batch_size: int, num_replicas: int) -> int:
    """Returns the rows of each replica.

    Raises:
        UsageError: If they can't be shared out evenly.
    """
    rows, rest = divmod(global_batch_size, num_replicas)
    if rest:
        raise UsageError(
            f"--batch-size {global_batch_size} can't be divided by {num_replicas} "
            f"replicas.\nUse a multiple of {num_replicas}."
        )
    return rows


class TrainSteps:
    """Several training steps in one compiled call.

    The loss is normalised by the token count of the whole global batch: a mean of
    replica means would weigh tokens by the replica they fell on.

    Attributes:
        input: Makes the iterators for it.
    """

    def __init__(
        self, model: Any, optimizer: Any, strategy: Any, settings: StepSettings
    ) -> None:
        """Keeps what to train; nothing is traced before the first call.

        Args:
            model: Gives `trainable_variables`.
            optimizer: A Keras optimizer; it sums gradients over replicas itself.
            strategy: The strategy in whose scope both were made.
            settings: How a batch becomes an update.

        Raises:
            UsageError: If the batch size does not divide by the replicas.
        """
        self._model = model
        self._optimizer = optimizer
        self._strategy = strategy
        self._settings = settings
        num_rows = rows_per_replica(
            settings.global_batch_size, strategy.num_replicas_in_sync
        )
        self.input = ReplicaInput(strategy, num_rows=num_rows)
        self._compiled = tf.function(self._steps, reduce_retracing=True)

    def trace(self, iterator: Any) -> None:
        """Traces the graph for this iterator's batches, without running a step."""
        self._compiled.get_concrete_function(iterator, *_scalars(0, 1))

    def __call__(self, iterator: Any, step: int, num_steps: int) -> tuple[Any, Any]:
        """Trains `num_steps` steps on the next batches of `iterator`.

        Args:
            iterator: Of `input.iterate`; its next batch is that of `step`.
            step: Completed steps.
            num_steps: How many steps to train.

        Returns:
            The mean loss per target token in nats, and the number of target tokens,
            of each step; both float32 [num_steps].
        """
        # Calls to remote hosts return before they are done, and need it until then.
        self._iterator = iterator
        results: tuple[Any, Any] = self._compiled(iterator, *_scalars(step, num_steps))
        return results

    def _steps(self, iterator: Any, step: Any, num_steps: Any) -> tuple[Any, Any]:
        losses = tf.TensorArray(tf.float32, size=num_steps, element_shape=[])
        counts = tf.TensorArray(tf.float32, size=num_steps, element_shape=[])
        for index in tf.range(num_steps):
            batch = self.input.next_batch(iterator)
            num_tokens = self._settings.count_tokens(batch.whole)
            now = step + tf.cast(index, tf.int64)
            results = self._strategy.run(
                self._replica_step, args=(batch.for_replicas, now, num_tokens)
            )
            total = self._strategy.reduce(
                tf.distribute.ReduceOp.SUM, results, axis=None
            )
            losses = losses.write(index, total / num_tokens)
            counts = counts.write(index, num_tokens)
        return losses.stack(), counts.stack()

    def _replica_step(self, batch: Batch, step: Any, num_tokens: Any) -> Any:
        rows, first = self.input.take_rows(batch)
        with tf.GradientTape() as tape:
            summed, reported = self._settings.loss(rows, ReplicaContext(step, first))
            loss = summed / num_tokens
        variables = self._model.trainable_variables
        gradients = tape.gradient(loss, variables)
        self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return reported


def _scalars(step: int, num_steps: int) -> tuple[Any, Any]:
    return tf.constant(step, tf.int64), tf.constant(num_steps, tf.int32)


def make_evaluate(
    strategy: Any, settings: StepSettings
) -> Callable[[Any, Callable[[], bool]], tuple[float, float] | None]:
    """Returns a function from a finite dataset to its loss and token count.

    The result is the mean loss per target token in nats, summed in file order in
    float64, and the number of tokens. Its second argument is asked before each batch
    whether to break off; then the result is None.
    """
    num_rows = rows_per_replica(
        settings.global_batch_size, strategy.num_replicas_in_sync
    )

    def replica_loss(batch: Batch) -> Any:
        rows, first = take_rows(batch, num_rows)
        step = tf.constant(-1, tf.int64)
        return settings.loss(rows, ReplicaContext(step, first))[1]

    @tf.function  # type: ignore[untyped-decorator]
    def batch_sums(batch: Batch) -> tuple[Any, Any]:
        results = strategy.run(replica_loss, args=(batch,))
        total = strategy.reduce(tf.distribute.ReduceOp.SUM, results, axis=None)
        return total, settings.count_tokens(batch)

    def evaluate(
        dataset: Any, is_stopped: Callable[[], bool]
    ) -> tuple[float, float] | None:
        loss = num_tokens = 0.0
        with tf.device(host_device()):
            iterator = iter(dataset)
        for batch in iterator:
            if is_stopped():
                return None
            batch_loss, batch_tokens = batch_sums(batch)
            loss += float(batch_loss)
            num_tokens += float(batch_tokens)
        return loss / num_tokens, num_tokens

    return evaluate
