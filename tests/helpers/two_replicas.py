"""python -m helpers.two_replicas RUN_DIR: `fit` on two logical CPUs, interrupted.

Prints what differs from plain `fit` there, or after it in a plain `fit` of the same
model; nothing if nothing does. The devices must be
made before TensorFlow does anything, so it needs a process of its own.
"""

from __future__ import annotations

import sys

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

from helpers.fit_runs import Result, differences, fit, interrupted_fit  # noqa: E402
from helpers.fit_variants import two_replicas  # noqa: E402
from helpers.keras_programs import fresh  # noqa: E402

import resumable_tf as rtf  # noqa: E402


def fit_twice(directory: str | None) -> Result:
    """Trains with our callback, if there is a directory, and then without it."""
    program = fresh(two_replicas)
    fit(program, [rtf.ResumeCallback(directory)] if directory else [])
    return fit(program, [])


def main() -> None:
    twice = differences(fit_twice(None), fit_twice(f"{sys.argv[1]}/first"))
    expected = fit(fresh(two_replicas), [])
    result = interrupted_fit(
        "",
        f"{sys.argv[1]}/killed",
        every=3,
        kills=[5, 7],
        program=lambda: fresh(two_replicas),
    )
    print("differences:", differences(expected, result) + twice)


if __name__ == "__main__":
    main()
