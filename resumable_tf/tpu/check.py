"""Compiles a training step for a TPU slice, without a TPU, and reports the figures.

    report = check_step(trace_step, topology, environment, batch_size=64)
    report.compiles, report.error, report.figures

The step is traced by TensorFlow here, and compiled by the TPU's own compiler in the
compiler's environment. Nothing is executed: that it compiles and fits is shown, not
that it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resumable_tf.tpu.batch_search import Attempt, find_largest
from resumable_tf.tpu.check_report import CheckReport, Figures
from resumable_tf.tpu.collectives import parse_collectives
from resumable_tf.tpu.compiler_environment import (
    DEFAULT_TIMEOUT_SECS,
    CompilerEnvironment,
)
from resumable_tf.tpu.lowering import TraceStep, lower_step
from resumable_tf.tpu.topology import Topology

MAX_ROWS_PER_REPLICA = 1 << 16


def check_step(
    trace: TraceStep,
    topology: Topology,
    environment: CompilerEnvironment,
    *,
    batch_size: int | None = None,
    timeout_secs: float = DEFAULT_TIMEOUT_SECS,
) -> CheckReport:
    """Traces and compiles a step.

    Args:
        trace: Traces it under a `CompileOnlyStrategy`.
        topology: The slice to compile for.
        environment: Where the compiler is.
        batch_size: For the report.
        timeout_secs: How long the compiler may take.
    """
    lowered = lower_step(trace, num_replicas=topology.num_replicas)
    if lowered.program is None:
        return CheckReport(topology, batch_size, lowered.findings, lowered.error, None)
    answer, hlo = environment.compile(
        lowered.program, _request(topology), timeout_secs=timeout_secs
    )
    error = answer.get("error")
    figures = None if error else _figures(answer, hlo)
    return CheckReport(topology, batch_size, lowered.findings, error, figures)


def find_batch(
    check: Callable[[int], CheckReport], topology: Topology, *, start: int
) -> CheckReport:
    """Returns the report of the largest batch that fits.

    Every size tried is a multiple of the replicas. The next multiple does not fit, or
    fails in another way, which the report then says.

    Args:
        check: Checks a batch size.
        topology: The slice.
        start: The batch size to begin with.
    """
    num_replicas = topology.num_replicas
    reports: dict[int, CheckReport] = {}

    def attempt(rows: int) -> Attempt:
        report = reports[rows] = check(rows * num_replicas)
        figures = report.figures
        return Attempt(
            fits=report.compiles,
            needed=figures.hbm_bytes if figures else None,
            is_final=not (report.compiles or report.is_out_of_memory),
        )

    largest = find_largest(
        attempt,
        start=start // num_replicas,
        most=MAX_ROWS_PER_REPLICA,
        limit=topology.chip.usable_hbm_bytes,
    )
    return reports[largest]


def _request(topology: Topology) -> dict[str, Any]:
    return {
        "topology": topology.name,
        "num_replicas": topology.num_replicas,
        "chips_per_host": list(topology.chips_per_host),
        "config_name": topology.chip.config_name,
    }


def _figures(answer: Mapping[str, Any], hlo: str) -> Figures:
    names = (
        "compile_secs",
        "argument_bytes",
        "output_bytes",
        "alias_bytes",
        "temporary_bytes",
        "code_bytes",
        "flops",
    )
    values = {name: answer[name] for name in names}
    return Figures(**values, collectives=parse_collectives(hlo))
