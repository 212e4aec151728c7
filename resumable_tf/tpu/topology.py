"""Names of TPU topologies, such as `v5e:2x4`, and what they stand for.

topology = parse_topology("v5e:2x4")
topology.num_chips, topology.num_replicas, topology.num_hosts    # 8, 8, 1
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from resumable_tf.errors import UsageError
from resumable_tf.tpu.chips import CHIPS, Chip

_FORM = re.compile(r"(\w+):(\d+(?:x\d+){1,2})")
_CHIPS_PER_HOST = (2, 2, 1)
_EIGHT_CHIP_HOST = (2, 4, 1)


@dataclass(frozen=True)
class Topology:
    """Chips in a grid.

    Attributes:
        name: As it was given.
        chip: What each of them is.
        shape: Chips along each axis, three of them.
    """

    name: str
    chip: Chip
    shape: tuple[int, int, int]

    @property
    def num_chips(self) -> int:
        """Chips of the whole grid."""
        return math.prod(self.shape)

    @property
    def num_replicas(self) -> int:
        """Devices of the grid; TPUStrategy makes each of them a replica."""
        return self.num_chips * self.chip.devices_per_chip

    @property
    def chips_per_host(self) -> tuple[int, int, int]:
        """Chips that one host holds along each axis.

        A host holds 2x2; a single chip has a machine of its own, and eight chips of
        v5e or v6e in one slice share one.
        """
        if self.num_chips == 1:
            return (1, 1, 1)
        if self.chip.has_eight_chip_hosts and self.shape == _EIGHT_CHIP_HOST:
            return _EIGHT_CHIP_HOST
        return _CHIPS_PER_HOST

    @property
    def num_hosts(self) -> int:
        """Machines that the slice runs on."""
        return self.num_chips // math.prod(self.chips_per_host)


def parse_topology(name: str) -> Topology:
    """Returns the topology of a name like `v5e:2x4` or `v4:2x2x4`.

    Raises:
        UsageError: If no slice has this name.
    """
    match = _FORM.fullmatch(name)
    if match is None:
        raise UsageError(
            f"--topology {name!r} is not of the form CHIP:AxB or CHIP:AxBxC.\n"
            "Use one such as v5e:2x4 or v4:2x2x4."
        )
    chip = CHIPS.get(match[1])
    if chip is None:
        raise UsageError(
            f"--topology {name!r}: there is no chip {match[1]!r}.\n"
            f"Use one of {', '.join(CHIPS)}."
        )
    axes = [int(axis) for axis in match[2].split("x")]
    if len(axes) > chip.num_axes:
        raise UsageError(
            f"--topology {name!r} has {len(axes)} axes; {chip.name} has "
            f"{chip.num_axes}.\nUse {chip.name}:{chip.smallest}, for example."
        )
    shape = (axes[0], axes[1], axes[2] if len(axes) > 2 else 1)
    topology = Topology(name, chip, shape)
    _check_size(topology)
    return topology


def _check_size(topology: Topology) -> None:
    """Checks that the slice can be had.

    Raises:
        UsageError: If it has no chips, more than a pod, or not whole hosts.
    """
    chip, shape, name = topology.chip, topology.shape, topology.name
    if topology.num_chips > chip.max_chips:
        raise UsageError(
            f"--topology {name!r} has {topology.num_chips} chips; the largest slice of "
            f"{chip.name} has {chip.max_chips}.\nUse fewer chips."
        )
    pairs = zip(shape, topology.chips_per_host, strict=True)
    if not topology.num_chips or any(size % of_host for size, of_host in pairs):
        raise UsageError(
            f"--topology {name!r} can't be cut into hosts of 2x2 chips.\n"
            f"Use even numbers for the first two axes, such as {chip.name}:"
            f"{chip.smallest}, or a single chip (1x1)."
        )
