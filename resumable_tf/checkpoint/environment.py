"""What the last bits of a computation depend on besides the program.

    versions = environment()                  # goes into each manifest
    changes(saved_versions, environment())    # ["tensorflow: 2.20.0, now 2.21.0"]

A checkpoint of another TensorFlow or processor is restored exactly, but the steps after
it may round differently: then that is said, once, at the restore.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

_INSTRUCTION_SETS = ("avx512f", "avx2", "avx")
_UNRELATED = {"resumable_tf", "python", "numpy"}


@functools.cache
def environment() -> Mapping[str, str]:
    """Returns the versions, kernels and instruction set in use, read once."""
    return {
        "resumable_tf": _installed("resumable-tf"),
        "tensorflow": tf.__version__,
        "keras": _keras(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "processor": f"{platform.machine()} {_instruction_set()}".strip(),
    }


def changes(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Returns what differs of that which results may depend on in the last bits."""
    return [
        f"{name}: {saved[name]}, now {now[name]}"
        for name in sorted(set(saved) & set(now) - _UNRELATED)
        if saved[name] != now[name]
    ]


def _keras() -> str:
    """Returns which Keras `tf.keras` is, and its version."""
    package = tf.keras.Model.__module__.split(".")[0]
    return f"{package} {_installed(package.replace('_', '-'))}"


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _instruction_set() -> str:
    """Returns the widest vector instructions, empty where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    flags = next((x for x in text.splitlines() if x.startswith("flags")), "").split()
    return next((name for name in _INSTRUCTION_SETS if name in flags), "")
