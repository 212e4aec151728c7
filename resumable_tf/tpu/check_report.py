"""What a compile check found. Imports no TensorFlow.

report.compiles, report.figures.hbm_bytes
bounds = lower_bounds(report.figures, chip, num_replicas)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from resumable_tf.tpu.chips import Chip
from resumable_tf.tpu.collectives import Collective
from resumable_tf.tpu.topology import Topology

HOST_ONLY = "host only"
DYNAMIC_SHAPE = "dynamic shape"


class Finding(NamedTuple):
    """An operation at fault.

    Attributes:
        kind: `host only` or `dynamic shape`.
        operation: Its type, such as `EagerPyFunc`.
        source: `file:line` in the user's program, and the line itself.
    """

    kind: str
    operation: str
    source: str


@dataclass(frozen=True)
class Figures:
    """What the compiler says of a program, for one device and one step.

    Attributes:
        compile_secs: How long it took.
        argument_bytes: Variables and inputs.
        output_bytes: New variables and results.
        alias_bytes: Of the outputs, those that take the place of an argument.
        temporary_bytes: Activations and the like, at their peak.
        code_bytes: The program itself.
        flops: Operations of the step; a loop's body counts once.
        collectives: Operations between replicas, by kind.
    """

    compile_secs: float
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temporary_bytes: int
    code_bytes: int
    flops: float
    collectives: Mapping[str, Collective] = field(default_factory=dict)

    @property
    def hbm_bytes(self) -> int:
        """Memory that the program needs on a device."""
        own_outputs = self.output_bytes - self.alias_bytes
        return (
            self.argument_bytes + own_outputs + self.temporary_bytes + self.code_bytes
        )


@dataclass(frozen=True)
class LowerBounds:
    """Least seconds a step can take, by each of the chip's public peaks.

    Attributes:
        compute_secs: For its operations.
        memory_secs: To read each argument and write each output once.
        link_secs: To exchange what is reduced; None if the figure is not public.
    """

    compute_secs: float
    memory_secs: float
    link_secs: float | None

    @property
    def step_secs(self) -> float:
        """The largest of them: all can go on at once."""
        return max(self.compute_secs, self.memory_secs, self.link_secs or 0.0)


@dataclass(frozen=True)
class CheckReport:
    """What is known of a step on a slice.

    Attributes:
        topology: The slice.
        batch_size: Rows a step over all replicas; None if the step fixes its own.
        findings: Operations that can't run on a TPU, or have no static shape.
        error: TensorFlow's or the compiler's, None if it compiles.
        figures: The compiler's, None if it does not compile.
    """

    topology: Topology
    batch_size: int | None
    findings: tuple[Finding, ...]
    error: str | None
    figures: Figures | None

    @property
    def compiles(self) -> bool:
        """Whether the step can be compiled, and fits."""
        return self.error is None

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the compiler's error is that the memory does not suffice."""
        return self.error is not None and self.error.startswith("RESOURCE_EXHAUSTED")


def lower_bounds(figures: Figures, chip: Chip, num_replicas: int) -> LowerBounds:
    """Returns the least times of a step that a chip's public peaks allow.

    Args:
        figures: Of a device.
        chip: Its kind.
        num_replicas: Devices that reduce together. In a ring, each sends and receives
            `2 * (n - 1) / n` times what is all-reduced, and half of that otherwise.
    """
    share = (num_replicas - 1) / num_replicas
    moved_bytes = 0.0
    for kind, collective in figures.collectives.items():
        passes = 2 if kind == "all-reduce" else 1
        moved_bytes += 2 * passes * share * collective.size_bytes
    link = chip.link_bytes_per_sec_per_device
    once_bytes = figures.argument_bytes + figures.output_bytes
    return LowerBounds(
        compute_secs=figures.flops / chip.peak_flops_per_device,
        memory_secs=once_bytes / chip.hbm_bytes_per_sec_per_device,
        link_secs=None if link is None else moved_bytes / link,
    )
