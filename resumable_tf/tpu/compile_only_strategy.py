"""A strategy that claims the replicas of a TPU slice and records what each would run.

    strategy = CompileOnlyStrategy(num_replicas=8)
    with strategy.scope():
        model = ...
        step.get_concrete_function(...)     # calls strategy.run(fn, args)
    program = strategy.recorded()

What a TPU compiles of a step is the function that the step hands to `strategy.run`,
once, for all replicas; what stands around it runs on the host. `TPUStrategy` passes
each replica its number as a tensor and turns `all_reduce` into an operation between
replicas; so does this one, on a machine without TPUs. Nothing is ever run.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.distribute import distribute_lib, one_device_strategy

from resumable_tf.errors import UsageError
from resumable_tf.tpu.source_lines import source_of

_REDUCTIONS = {tf.distribute.ReduceOp.SUM: "Add", tf.distribute.ReduceOp.MEAN: "Add"}


class ReplicaProgram(NamedTuple):
    """What `strategy.run` was given.

    Attributes:
        function: What each replica runs.
        traced: Its graph; the first argument is the replica's number.
    """

    function: Callable[..., Any]
    traced: Any


class CompileOnlyStrategy(distribute_lib.Strategy):  # type: ignore[misc]
    """Claims `num_replicas` replicas, traces what they would run, and runs nothing."""

    def __init__(self, num_replicas: int) -> None:
        """Keeps the number of replicas.

        Args:
            num_replicas: Devices of the slice.
        """
        super().__init__(_CompileOnlyExtended(self, num_replicas))
        self._programs: list[ReplicaProgram] = []

    # AutoGraph would convert this method when it converts the step that calls it.
    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def run(
        self,
        fn: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        options: Any = None,
    ) -> Any:
        """Traces `fn` as a replica's program; the results are zeros of its shapes."""
        del options
        if tf.executing_eagerly():
            # What Keras builds at its first step must not be built in a graph.
            return super().run(fn, args=args, kwargs=kwargs)
        kwargs = kwargs or {}
        specs = tf.nest.map_structure(_spec_of, (tuple(args), dict(kwargs)))

        def program(replica: Any, args: Any, kwargs: Any) -> Any:
            with _NumberedReplicaContext(self, replica):
                return fn(*args, **kwargs)

        traced = self._trace(tf.function(program, jit_compile=True), specs)
        self._remember(ReplicaProgram(fn, traced))
        return tf.nest.map_structure(_stand_in, traced.structured_outputs)

    def _trace(self, compiled: Any, specs: Any) -> Any:
        """Returns the graph of `compiled`, as if nothing stood around it.

        A thread of its own has neither the graph nor the tape of the step that is
        just being traced.
        """

        def trace() -> Any:
            with self.scope():
                replica = tf.TensorSpec([], tf.int32, name="replica")
                return compiled.get_concrete_function(replica, *specs)

        with ThreadPoolExecutor(max_workers=1) as pool:
            return pool.submit(trace).result()

    def _remember(self, program: ReplicaProgram) -> None:
        """Keeps the newest trace of a function: loops and Keras trace it again."""
        self._programs = [
            known for known in self._programs if known.function != program.function
        ]
        self._programs.append(program)

    def recorded(self) -> ReplicaProgram:
        """Returns the program of the one `strategy.run` of the step.

        Raises:
            UsageError: If there was none, or more than one, or if it uses a tensor of
                the function around it.
        """
        if len(self._programs) == 1:
            program = self._programs[0]
            captured = program.traced.captured_inputs
            outer = next((x for x in captured if tf.is_symbolic_tensor(x)), None)
            if outer is None:
                return program
            raise UsageError(
                "the function given to strategy.run uses a tensor of the function "
                f"around it, {outer.name}, made by\n  {source_of(outer.op)}\n"
                "Pass it in args=(...)."
            )
        if not self._programs:
            raise UsageError(
                "the step never called strategy.run, so nothing of it would run on a "
                "TPU.\nCall tf.distribute.get_strategy().run(function, args) in it."
            )
        names = ", ".join(
            getattr(program.function, "__qualname__", repr(program.function))
            for program in self._programs
        )
        raise UsageError(
            f"the step calls strategy.run {len(self._programs)} times ({names}); each "
            "is a program of its own.\nCheck them one by one."
        )


class _CompileOnlyExtended(one_device_strategy.OneDeviceExtended):  # type: ignore[misc]
    """Devices and collectives of the strategy; variables live on this machine's CPU."""

    def __init__(self, strategy: CompileOnlyStrategy, num_replicas: int) -> None:
        super().__init__(strategy, "/cpu:0")
        self._num_replicas = num_replicas

    @property
    def _num_replicas_in_sync(self) -> int:
        return self._num_replicas

    def _use_merge_call(self) -> bool:
        return False

    def _replica_ctx_all_reduce(
        self, reduce_op: Any, value: Any, options: Any = None
    ) -> Any:
        del options
        groups = [list(range(self._num_replicas))]

        def reduced(x: Any) -> Any:
            x = tf.convert_to_tensor(x)
            total = gen_xla_ops.xla_all_reduce(
                x,
                group_assignment=groups,
                reduce_op=_REDUCTIONS[reduce_op],
                mode="CrossReplica",
            )
            is_mean = reduce_op == tf.distribute.ReduceOp.MEAN
            return total / tf.cast(self._num_replicas, x.dtype) if is_mean else total

        return tf.nest.map_structure(reduced, value)

    def _replica_ctx_update(
        self, var: Any, fn: Any, args: Any, kwargs: Any, group: bool
    ) -> Any:
        del group
        return fn(var, *args, **(kwargs or {}))


class _NumberedReplicaContext(distribute_lib.ReplicaContext):  # type: ignore[misc]
    """A replica whose number is a tensor, as in `TPUStrategy`."""

    def __init__(self, strategy: CompileOnlyStrategy, replica: Any) -> None:
        super().__init__(strategy, replica_id_in_sync_group=replica)

    @property
    def devices(self) -> Any:
        """The one device of the strategy."""
        return self._strategy.extended.worker_devices


def _spec_of(value: Any) -> Any:
    if isinstance(value, tf.Tensor | tf.RaggedTensor | tf.SparseTensor):
        return tf.type_spec_from_value(value)
    return value


def _stand_in(output: Any) -> Any:
    """Returns zeros of an output's shape; axes of unknown length stay unknown."""
    if not hasattr(output, "dtype"):
        return output
    if output.shape.rank is None:
        return tf.raw_ops.PlaceholderWithDefault(
            input=tf.zeros([], output.dtype), shape=output.shape
        )
    zeros = tf.zeros([axis or 1 for axis in output.shape], output.dtype)
    return tf.raw_ops.PlaceholderWithDefault(input=zeros, shape=output.shape)
