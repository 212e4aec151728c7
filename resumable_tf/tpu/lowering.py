"""Turns a training step into the StableHLO that a TPU's compiler takes.

    lowered = lower_step(lambda strategy: trace(strategy), num_replicas=8)
    lowered.program, lowered.findings, lowered.error

TensorFlow lowers on this machine's CPU, with the kernels that it registers for XLA's
just-in-time compiler there; most are the same for all devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from resumable_tf.tpu.check_report import HOST_ONLY, Finding
from resumable_tf.tpu.compile_only_strategy import CompileOnlyStrategy
from resumable_tf.tpu.graph_findings import find_unfit_operations

TraceStep = Callable[[CompileOnlyStrategy], None]
"""Builds a model in the strategy's scope and traces its step."""

_DEVICE = "/job:localhost/replica:0/task:0/device:CPU:0"


@dataclass(frozen=True)
class LoweredStep:
    """A step in the compiler's language, or why there is none.

    Attributes:
        program: StableHLO, None if it could not be made.
        findings: Operations that can't run on a TPU.
        error: What TensorFlow said when it could not be made.
    """

    program: bytes | None
    findings: tuple[Finding, ...]
    error: str | None


def lower_step(trace: TraceStep, *, num_replicas: int) -> LoweredStep:
    """Returns the program of one replica of a step.

    Args:
        trace: Traces the step under a strategy; see `CompileOnlyStrategy`.
        num_replicas: Replicas of the slice.
    """
    strategy = CompileOnlyStrategy(num_replicas)
    with strategy.scope():
        trace(strategy)
    traced = strategy.recorded().traced
    findings = tuple(find_unfit_operations(traced.graph))
    if any(finding.kind == HOST_ONLY for finding in findings):
        names = sorted({f.operation for f in findings if f.kind == HOST_ONLY})
        error = f"no TPU kernel for {', '.join(names)}"
        return LoweredStep(None, findings, error)
    try:
        return LoweredStep(_stablehlo(traced), findings, None)
    except (ValueError, tf.errors.OpError) as error:
        return LoweredStep(None, findings, str(error))


def _stablehlo(traced: Any) -> bytes:
    """Returns the serialized StableHLO of a concrete function."""
    num_arguments = len(traced.inputs) - len(traced.captured_inputs)
    specs = [
        tf.TensorSpec(value.shape, value.dtype)
        for value in traced.inputs[:num_arguments]
    ]
    program: bytes = context.context().get_compiler_ir(
        device_name=_DEVICE,
        platform_name=None,
        function_name=traced.name,
        flat_args=specs,
        captured_inputs=traced.captured_inputs,
        stage="stablehlo_serialized",
    )
    return program
