"""python -m helpers.two_replicas RUN_DIR: `fit` on two logical CPUs, interrupted.

Prints what differs from plain `fit` there; nothing if nothing does. The devices must be
made before TensorFlow does anything, so it needs a process of its own.
"""

from __future__ import annotations

import sys

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

from helpers.fit_runs import differences, fit, interrupted_fit  # noqa: E402
from helpers.fit_variants import two_replicas  # noqa: E402
from helpers.keras_programs import fresh  # noqa: E402


def main() -> None:
    expected = fit(fresh(two_replicas), [])
    result = interrupted_fit(
        "", sys.argv[1], every=3, kills=[5, 7], program=lambda: fresh(two_replicas)
    )
    print("differences:", differences(expected, result))


if __name__ == "__main__":
    main()
