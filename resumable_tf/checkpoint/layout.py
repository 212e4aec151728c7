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

_MAX_STEP = 2**63 - 1
_NUMBER = r"(0|[1-9][0-9]{0,18})"
"""A step in one way of writing: "007" names another file than "7"."""
_CKPT = rf"{re.escape(CHECKPOINTS)}/ckpt-{_NUMBER}"
_MANIFEST = re.compile(rf"{_CKPT}\.manifest\.json")
_IN_MANIFEST = re.compile(rf"{_CKPT}\.manifest\.json/.*", re.DOTALL)
_DATA = re.compile(
    rf"{_CKPT}(?:\.index|\.data-[0-9]{{5,}}-of-[0-9]{{5,}}|_temp/.*)", re.DOTALL
)
_SHARD = re.compile(rf"ckpt-{_NUMBER}\.data-([0-9]{{5,9}})-of-([0-9]{{5,9}})")
_PIN = re.compile(rf"{re.escape(PINS)}/{_NUMBER}")
_SCRATCH = re.compile(rf"{re.escape(STATE_FILE)}\.tmp.*|{_CKPT}_temp/.*", re.DOTALL)
_SIDES = f"{re.escape(QUARANTINE)}|{re.escape(SUPERSEDED)}"
_ASIDE = re.compile(
    rf"({_SIDES})/ckpt-{_NUMBER}\.([1-9][0-9]{{0,8}})/ckpt-\2\.manifest\.json"
)
_REPLACED = re.compile(
    rf"({re.escape(SUPERSEDED)}/ckpt-{_NUMBER}\.[1-9][0-9]{{0,8}})\.until-{_NUMBER}"
)


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
    return _step_in(_MANIFEST.fullmatch(name))


def step_of_folder(name: str) -> int | None:
    """Returns the step whose manifest is a folder, for a file in it, else None."""
    return _step_in(_IN_MANIFEST.fullmatch(name))


def pin_name(step: int) -> str:
    """Returns the name of the file that pins a step."""
    return f"{PINS}/{step}"


def step_of_pin(name: str) -> int | None:
    """Returns the step that a file pins, else None."""
    return _step_in(_PIN.fullmatch(name))


def step_of_data(name: str) -> int | None:
    """Returns the step that a bundle's file belongs to, finished or not, else None."""
    return _step_in(_DATA.fullmatch(name))


def is_index(name: str, step: int) -> bool:
    """Returns whether a file name is that of the index of a step's bundle."""
    return name == f"{bundle_name(step)}.index"


def data_shard(name: str, step: int) -> tuple[int, int] | None:
    """Returns number and total for the name of a step's data file, else None."""
    match = _SHARD.fullmatch(name)
    if match is None or _step_in(match) != step:
        return None
    number, total = int(match[2]), int(match[3])
    is_canonical = name == f"{bundle_name(step)}.data-{number:05d}-of-{total:05d}"
    return (number, total) if is_canonical else None


def is_scratch(name: str) -> bool:
    """Returns whether a file is TensorFlow's own temporary one."""
    return _SCRATCH.fullmatch(name) is not None


def aside_folder(directory: str, step: int, number: int) -> str:
    """Returns the folder for the `number`-th checkpoint of `step` set aside."""
    return f"{directory}/ckpt-{step}.{number}"


def parse_aside(name: str) -> tuple[str, int, int] | None:
    """Returns directory, step and number for a manifest that was set aside."""
    match = _ASIDE.fullmatch(name)
    step = _step_in(match, 2)
    return None if match is None or step is None else (match[1], step, int(match[3]))


def replaced_name(folder: str, until: int) -> str:
    """Returns the marker of a folder that comes back unless a step is committed."""
    return f"{folder}.until-{until}"


def parse_replaced(name: str) -> tuple[str, int, int] | None:
    """Returns folder, its step and the awaited step for such a marker, else None."""
    match = _REPLACED.fullmatch(name)
    step, until = _step_in(match, 2), _step_in(match, 3)
    if match is None or step is None or until is None:
        return None
    return match[1], step, until


def _step_in(match: re.Match[str] | None, group: int = 1) -> int | None:
    """Returns the step in a name, None for one that no training can have reached."""
    step = None if match is None else int(match[group])
    return step if step is None or step <= _MAX_STEP else None
