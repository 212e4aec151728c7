"""Public peak figures of the TPU chips, and how they divide into devices.

    chip = CHIPS["v5e"]
    chip.peak_flops, chip.usable_hbm_bytes

Figures are those of the vendor's pages, https://cloud.google.com/tpu/docs/ followed by
v2, v3, v4, v5e, v5p, v6e and tpu7x; where a page gives none it is None. They are peaks:
a time computed from them is a lower bound, not a forecast.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30
_TERA, _GIGA = 10**12, 10**9


@dataclass(frozen=True)
class Chip:
    """A chip of one generation.

    Attributes:
        name: As in topology names.
        peak_flops: bfloat16 operations a second of a chip.
        usable_hbm_bytes: Of a device, what the pinned compiler lets a program have: the
            number in its "exceeds available HBM", asked for each chip.
        hbm_bytes_per_sec: Bandwidth of a chip's memory.
        link_bytes_per_sec: To and from its neighbours, all links of a chip together
            and both directions; None where it is not published.
        devices_per_chip: Devices that a program sees.
        num_axes: Of its grid.
        max_chips: Of the largest slice.
        smallest: Grid of the smallest slice of a whole host.
        config_name: The compiler's name for how the chip's cores work together; its
            default if None.
        has_eight_chip_hosts: Whether a slice of 2x4 is one machine.
        note: What else must be known.
    """

    name: str
    peak_flops: float
    usable_hbm_bytes: int
    hbm_bytes_per_sec: float
    link_bytes_per_sec: float | None
    devices_per_chip: int
    num_axes: int
    max_chips: int
    smallest: str
    config_name: str | None = None
    has_eight_chip_hosts: bool = False
    note: str | None = None

    @property
    def peak_flops_per_device(self) -> float:
        """bfloat16 operations a second of a device."""
        return self.peak_flops / self.devices_per_chip

    @property
    def hbm_bytes_per_sec_per_device(self) -> float:
        """Memory bandwidth of a device."""
        return self.hbm_bytes_per_sec / self.devices_per_chip

    @property
    def link_bytes_per_sec_per_device(self) -> float | None:
        """Bandwidth to other chips of a device, both directions."""
        whole = self.link_bytes_per_sec
        return None if whole is None else whole / self.devices_per_chip


_ALL = (
    Chip(
        name="v2",
        peak_flops=46 * _TERA,
        usable_hbm_bytes=int(7.48 * GIB),
        hbm_bytes_per_sec=700 * _GIGA,
        link_bytes_per_sec=None,
        devices_per_chip=2,
        num_axes=2,
        max_chips=256,
        smallest="2x2",
    ),
    Chip(
        name="v3",
        peak_flops=123 * _TERA,
        usable_hbm_bytes=int(15.48 * GIB),
        hbm_bytes_per_sec=900 * _GIGA,
        link_bytes_per_sec=None,
        devices_per_chip=2,
        num_axes=2,
        max_chips=1024,
        smallest="2x2",
    ),
    Chip(
        name="v4",
        peak_flops=275 * _TERA,
        usable_hbm_bytes=int(30.75 * GIB),
        hbm_bytes_per_sec=1200 * _GIGA,
        link_bytes_per_sec=None,
        devices_per_chip=1,
        num_axes=3,
        max_chips=4096,
        smallest="2x2x1",
        # Both cores as one device, as TPUStrategy has them; else they are two.
        config_name="megacore",
    ),
    Chip(
        name="v5e",
        peak_flops=197 * _TERA,
        usable_hbm_bytes=int(15.75 * GIB),
        hbm_bytes_per_sec=819 * _GIGA,
        link_bytes_per_sec=400 * _GIGA,
        devices_per_chip=1,
        num_axes=2,
        max_chips=256,
        smallest="2x2",
        has_eight_chip_hosts=True,
    ),
    Chip(
        name="v5p",
        peak_flops=459 * _TERA,
        usable_hbm_bytes=int(95.74 * GIB),
        hbm_bytes_per_sec=2765 * _GIGA,
        link_bytes_per_sec=1200 * _GIGA,
        devices_per_chip=1,
        num_axes=3,
        max_chips=6144,
        smallest="2x2x1",
    ),
    Chip(
        name="v6e",
        peak_flops=918 * _TERA,
        usable_hbm_bytes=int(31.25 * GIB),
        hbm_bytes_per_sec=1600 * _GIGA,
        link_bytes_per_sec=800 * _GIGA,
        devices_per_chip=1,
        num_axes=2,
        max_chips=256,
        smallest="2x2",
        has_eight_chip_hosts=True,
    ),
    Chip(
        name="tpu7x",
        peak_flops=2307 * _TERA,
        usable_hbm_bytes=int(94.75 * GIB),
        hbm_bytes_per_sec=7380 * _GIGA,
        link_bytes_per_sec=1200 * _GIGA,
        devices_per_chip=2,
        num_axes=3,
        max_chips=9216,
        smallest="2x2x1",
        note="the vendor does not support TensorFlow on TPU7x",
    ),
)

CHIPS = {chip.name: chip for chip in _ALL}
