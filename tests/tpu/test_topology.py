"""Names of TPU slices: what they stand for, and what is refused with which advice."""

from __future__ import annotations

import pytest

from resumable_tf.errors import UsageError
from resumable_tf.tpu.chips import CHIPS, GIB
from resumable_tf.tpu.topology import parse_topology


@pytest.mark.parametrize(
    ("name", "num_chips", "num_replicas", "num_hosts"),
    [
        ("v2:2x2", 4, 8, 1),
        ("v3:4x4", 16, 32, 4),
        ("v4:2x2x4", 16, 16, 4),
        ("v5e:1x1", 1, 1, 1),
        ("v5e:2x4", 8, 8, 1),
        ("v5e:4x4", 16, 16, 4),
        ("v5e:16x16", 256, 256, 64),
        ("v5p:2x2x2", 8, 8, 2),
        ("v6e:2x4", 8, 8, 1),
        ("tpu7x:2x2x1", 4, 8, 1),
    ],
)
def test_a_name_says_chips_replicas_and_hosts(
    name: str, num_chips: int, num_replicas: int, num_hosts: int
) -> None:
    topology = parse_topology(name)
    assert topology.num_chips == num_chips
    assert topology.num_replicas == num_replicas
    assert topology.num_hosts == num_hosts


@pytest.mark.parametrize("chip", CHIPS)
def test_the_smallest_slice_of_each_chip_is_one_host(chip: str) -> None:
    assert parse_topology(f"{chip}:{CHIPS[chip].smallest}").num_hosts == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", r"not of the form CHIP:AxB"),
        ("v5e:8", r"not of the form"),
        ("v5e:2x4 ", r"not of the form"),
        ("v9:2x2", r"no chip 'v9'.*\n.*v5e, v5p"),
        ("v5e:32x32", r"1024 chips; the largest slice of v5e has 256"),
        ("v5e:3x5", r"can't be cut into hosts of 2x2"),
        ("v5e:0x2", r"can't be cut"),
        ("v5e:2x2x2", r"has 3 axes; v5e has 2"),
    ],
)
def test_a_slice_that_can_not_be_had_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_topology(name)


# GiB that a chip is sold with.
_SOLD = {"v2": 16, "v3": 32, "v4": 32, "v5e": 16, "v5p": 95, "v6e": 32, "tpu7x": 192}


@pytest.mark.parametrize("name", CHIPS)
def test_a_program_may_have_no_more_memory_than_the_chip_has(name: str) -> None:
    chip, sold = CHIPS[name], _SOLD[name] * GIB
    each = chip.usable_hbm_bytes * chip.devices_per_chip
    # v5p is sold as 95 GB and gives a program 95.74 GiB.
    assert 0.9 * sold < each < 1.01 * sold
