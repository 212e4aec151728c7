"""What Cloud TPU calls a slice, and what follows from the name.

    accelerator = parse_accelerator("v5litepod-16")
    accelerator.num_chips, accelerator.is_pod       # 16, True
    accelerator.num_replicas                        # 16
    accelerator.runtime_version                     # "v2-alpha-tpuv5-lite"

Sources: cloud.google.com/tpu/docs/runtimes (runtime versions, the page of 2025-08),
cloud.google.com/tpu/docs/supported-tpu-configurations (cores, chips, shapes) and
cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus (labels, topologies).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from resumable_tf.errors import UsageError
from resumable_tf.tpu.chips import CHIPS

CHIPS_PER_POD_HOST = 4
"""Chips of each host of a slice that has several hosts, in all generations."""
NEWEST_TENSORFLOW_IMAGE = "2.18.0"
"""The last TensorFlow that Google's runtime images hold."""

_FLAT = {
    1: "1x1",
    4: "2x2",
    8: "2x4",
    16: "4x4",
    32: "4x8",
    64: "8x8",
    128: "8x16",
    256: "16x16",
}
_CUBIC = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    1024: "8x8x16",
    2048: "8x16x16",
}


@dataclass(frozen=True)
class Generation:
    """One kind of TPU.

    Attributes:
        name: What stands before the number in an accelerator type.
        cores_per_chip: TensorCores that the number counts for each chip; 1 where it
            counts chips.
        most_chips_of_one_host: Slices above it have several hosts.
        runtime_version: Newest base image known; "" if Cloud TPU's API lacks the kind.
        gke_label: Value of `cloud.google.com/gke-tpu-accelerator`; "" if not on GKE.
        topologies: Shape by chips.
    """

    name: str
    cores_per_chip: int
    most_chips_of_one_host: int
    runtime_version: str
    gke_label: str
    topologies: Mapping[int, str] = field(default_factory=dict)

    @property
    def slices_of_one_host(self) -> tuple[int, ...]:
        """How many chips a slice of one host may have."""
        most = self.most_chips_of_one_host
        known = [chips for chips in self.topologies if chips <= most]
        # v2 and v3 are not on GKE, so without topologies: they come as whole hosts.
        return tuple(known) or (most,)


GENERATIONS = {
    kind.name: kind
    for kind in (
        Generation("v2", 2, 4, "tpu-ubuntu2204-base", ""),
        Generation("v3", 2, 4, "tpu-ubuntu2204-base", ""),
        Generation("v4", 2, 4, "tpu-ubuntu2204-base", "tpu-v4-podslice", _CUBIC),
        Generation(
            "v5litepod", 1, 8, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", _FLAT
        ),
        Generation("v5p", 2, 4, "v2-alpha-tpuv5", "tpu-v5p-slice", _CUBIC),
        Generation("v6e", 1, 8, "v2-alpha-tpuv6e", "tpu-v6e-slice", _FLAT),
        Generation("tpu7x", 1, 4, "", "tpu7x", _CUBIC),
    )
}


@dataclass(frozen=True)
class Accelerator:
    """A slice of one kind of TPU.

    Attributes:
        type: As the user wrote it, for instance `v5litepod-16`.
        generation: Its kind.
        num_chips: Chips of the slice.
    """

    type: str
    generation: Generation
    num_chips: int

    @property
    def is_pod(self) -> bool:
        """Whether the slice has several hosts."""
        return self.num_chips > self.generation.most_chips_of_one_host

    @property
    def num_hosts(self) -> int:
        """Virtual machines of the slice."""
        return self.num_chips // CHIPS_PER_POD_HOST if self.is_pod else 1

    @property
    def num_replicas(self) -> int:
        """Devices of the slice; TPUStrategy makes each of them a replica."""
        chip = CHIPS[self.generation.name.replace("v5litepod", "v5e")]
        return self.num_chips * chip.devices_per_chip

    @property
    def runtime_version(self) -> str:
        """The newest base image known for this kind."""
        return self.generation.runtime_version

    @property
    def topology(self) -> str:
        """The slice's shape as GKE names it.

        Raises:
            UsageError: If the table has no shape for so many chips.
        """
        found = self.generation.topologies.get(self.num_chips)
        if found is None:
            raise UsageError(
                f"--accelerator-type {self.type}: no GKE topology is known for "
                f"{self.num_chips} chips.\n"
                f"Known: {', '.join(self._known_types()) or 'none for this kind'}."
            )
        return found

    def _known_types(self) -> list[str]:
        kind = self.generation
        return [
            f"{kind.name}-{chips * kind.cores_per_chip}" for chips in kind.topologies
        ]


def parse_accelerator(accelerator_type: str) -> Accelerator:
    """Returns what an accelerator type means.

    Args:
        accelerator_type: `v5litepod-16`: the kind, and its TensorCores (v2, v3, v4,
            v5p) or chips (v5litepod, v6e, tpu7x).

    Raises:
        UsageError: If it is of no known form, half a chip, or no slice of one host.
    """
    match = re.fullmatch(r"([a-z0-9]+?)-([1-9]\d*)", accelerator_type)
    kind = GENERATIONS.get(match.group(1)) if match else None
    if match is None or kind is None:
        raise UsageError(
            f"--accelerator-type {accelerator_type!r} is not known.\n"
            f"Expected a kind ({', '.join(GENERATIONS)}) and a number, such as "
            "v5litepod-16; `gcloud compute tpus accelerator-types list --zone=ZONE` "
            "lists what a zone has."
        )
    count = int(match.group(2))
    num_chips, rest = divmod(count, kind.cores_per_chip)
    is_one_host = num_chips <= kind.most_chips_of_one_host
    if rest or not (is_one_host or num_chips % CHIPS_PER_POD_HOST == 0):
        raise UsageError(
            f"--accelerator-type {accelerator_type}: {count} is no whole number of "
            f"{kind.name} hosts; it counts "
            f"{'TensorCores' if kind.cores_per_chip > 1 else 'chips'}."
        )
    if is_one_host and num_chips not in kind.slices_of_one_host:
        cores = kind.cores_per_chip
        known = (f"{kind.name}-{n * cores}" for n in kind.slices_of_one_host)
        raise UsageError(
            f"--accelerator-type {accelerator_type}: there is no slice of {num_chips} "
            f"chips.\nOf one host there are: {', '.join(known)}."
        )
    return Accelerator(accelerator_type, kind, num_chips)


def region_of(zone: str) -> str:
    """Returns the region of a zone: `us-west4` of `us-west4-a`."""
    return zone.rpartition("-")[0]
