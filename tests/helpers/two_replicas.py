"""python -m helpers.two_replicas RUN_DIR: `fit` on two logical CPUs, interrupted.

Prints what differs from plain `fit` there, or in a plain `fit` of the same model
after one of ours or after one that was refused; nothing if nothing does. The devices
must be made before TensorFlow does anything, so it needs a process of its own.
"""

from __future__ import annotations

import sys

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

from helpers.fit_runs import Result, differences, fit, interrupted_fit  # noqa: E402
from helpers.fit_variants import arrays, two_replicas  # noqa: E402
from helpers.keras_programs import fresh  # noqa: E402
from helpers.starts import start_over_if_asked  # noqa: E402

import resumable_tf as rtf  # noqa: E402


def fit_twice(directory: str | None) -> Result:
    """Trains with our callback, if there is a directory, and then without it."""
    program = fresh(two_replicas)
    fit(program, [rtf.ResumeCallback(directory)] if directory else [])
    return fit(program, [])


def fit_after_refusal(directory: str) -> Result:
    """Trains without our callback, after a `fit` with it was refused."""
    program = fresh(two_replicas)
    other = tf.data.Dataset.from_tensor_slices(arrays(32)).batch(4)
    try:
        program.model.fit(other, callbacks=[rtf.ResumeCallback(directory)], verbose=0)
    except rtf.DataMismatchError:
        return fit(program, [])
    raise AssertionError("other data was not refused")


def main() -> None:
    start_over_if_asked()
    twice = differences(fit_twice(None), fit_twice(f"{sys.argv[1]}/first"))
    expected = fit(fresh(two_replicas), [])
    result = interrupted_fit(
        "",
        f"{sys.argv[1]}/killed",
        every=3,
        kills=[5, 7],
        program=lambda: fresh(two_replicas),
    )
    refused = differences(expected, fit_after_refusal(f"{sys.argv[1]}/killed"))
    print("differences:", differences(expected, result) + twice + refused)


if __name__ == "__main__":
    main()
