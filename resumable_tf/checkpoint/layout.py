"""The names in a run directory.

manifest_name(41000)                    # "checkpoints/ckpt-41000.manifest.json"
step_of_manifest("checkpoints/ckpt-41000.manifest.json")     # 41000
"""

from __future__ import annotations

import re

RUN_FILE = "run.json"
LEASE_FILE = "lease.json"
"""Who writes to the run; there while somebody does."""
IDENTITY_FILE = "identity.json"
"""The run's id, by which it knows its fast tier; there if it ever had one."""
FAST_FILE = "fast.json"
"""In a fast tier: whose it is, and what it knows of the run directory."""
PINS = "pins"
"""Holds an empty file for each step that is kept whatever the policies say."""
CHECKPOINTS = "checkpoints"
STATE_FILE = f"{CHECKPOINTS}/checkpoint"
"""TensorFlow's own list of checkpoints, which `tf.train.latest_checkpoint` reads."""
QUARANTINE = f"{CHECKPOINTS}/quarantine"
"""Damaged checkpoints; nothing in here is ever deleted by this project."""
SUPERSEDED = f"{CHECKPOINTS}/superseded"
"""Checkpoints that a resume from an earlier step has made obsolete, and markers."""

_MANIFEST = re.compile(re.escape(CHECKPOINTS) + r"/ckpt-(\d+)\.manifest\.json")
_DATA = re.compile(
    re.escape(CHECKPOINTS) + r"/ckpt-(\d+)(?:\.index|\.data-\d+-of-\d+|_temp/.*)"
)
_PIN = re.compile(re.escape(PINS) + r"/(\d+)")
_SCRATCH = re.compile(
    re.escape(STATE_FILE) + r"\.tmp.*|" + re.escape(CHECKPOINTS) + r"/ckpt-\d+_temp/.*"
)
_ASIDE = re.compile(r"(.*)/ckpt-(\d+)\.(\d+)/ckpt-\d+\.manifest\.json")
_REPLACED = re.compile(rf"({re.escape(SUPERSEDED)}/ckpt-(\d+)\.\d+)\.until-(\d+)")


def bundle_name(step: int) -> str:
    """Returns the prefix of a bundle's file names."""
    return f"ckpt-{step}"


def bundle_prefix(step: int) -> str:
    """Returns a bundle's prefix in the storage."""
    return f"{CHECKPOINTS}/{bundle_name(step)}"


def manifest_name(step: int) -> str:
    """Returns a manifest's name in the storage."""
    return f"{bundle_prefix(step)}.manifest.json"


def step_of_manifest(name: str) -> int | None:
    """Returns the step of a committed checkpoint's manifest, else None."""
    match = _MANIFEST.fullmatch(name)
    return int(match[1]) if match else None


def pin_name(step: int) -> str:
    """Returns the name of the file that pins a step."""
    return f"{PINS}/{step}"


def step_of_pin(name: str) -> int | None:
    """Returns the step that a file pins, else None."""
    match = _PIN.fullmatch(name)
    return int(match[1]) if match else None


def step_of_data(name: str) -> int | None:
    """Returns the step that a bundle's file belongs to, finished or not, else None."""
    match = _DATA.fullmatch(name)
    return int(match[1]) if match else None


def is_scratch(name: str) -> bool:
    """Returns whether a file is TensorFlow's own temporary one."""
    return _SCRATCH.fullmatch(name) is not None


def aside_folder(directory: str, step: int, number: int) -> str:
    """Returns the folder for the `number`-th checkpoint of `step` set aside."""
    return f"{directory}/ckpt-{step}.{number}"


def parse_aside(name: str) -> tuple[str, int, int] | None:
    """Returns directory, step and number for a manifest that was set aside."""
    match = _ASIDE.fullmatch(name)
    return (match[1], int(match[2]), int(match[3])) if match else None


def replaced_name(folder: str, until: int) -> str:
    """Returns the marker of a folder that comes back unless a step is committed."""
    return f"{folder}.until-{until}"


def parse_replaced(name: str) -> tuple[str, int, int] | None:
    """Returns folder, its step and the awaited step for such a marker, else None."""
    match = _REPLACED.fullmatch(name)
    return (match[1], int(match[2]), int(match[3])) if match else None
