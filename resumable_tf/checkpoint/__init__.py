"""Checkpoints: when to save, how to commit, what to keep, how to come back.

    from resumable_tf.checkpoint import Checkpointer

Names are resolved when they are first used: listing and inspecting checkpoints does
not import TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resumable_tf.checkpoint.catalog import Catalog as Catalog
    from resumable_tf.checkpoint.checkpointer import Checkpointer as Checkpointer
    from resumable_tf.checkpoint.fast_tier import FastTier as FastTier
    from resumable_tf.checkpoint.interval import AutoInterval as AutoInterval
    from resumable_tf.checkpoint.manifest import CheckpointInfo as CheckpointInfo
    from resumable_tf.checkpoint.manifest import FileRecord as FileRecord
    from resumable_tf.checkpoint.manifest import Manifest as Manifest
    from resumable_tf.checkpoint.options import SaveOptions as SaveOptions
    from resumable_tf.checkpoint.policy import AnyOf as AnyOf
    from resumable_tf.checkpoint.policy import AtSteps as AtSteps
    from resumable_tf.checkpoint.policy import EpochEnds as EpochEnds
    from resumable_tf.checkpoint.policy import EverySecs as EverySecs
    from resumable_tf.checkpoint.policy import EverySteps as EverySteps
    from resumable_tf.checkpoint.policy import LastSave as LastSave
    from resumable_tf.checkpoint.policy import Moment as Moment
    from resumable_tf.checkpoint.policy import OnImprovement as OnImprovement
    from resumable_tf.checkpoint.retention import Candidate as Candidate
    from resumable_tf.checkpoint.retention import KeepBest as KeepBest
    from resumable_tf.checkpoint.retention import KeepMultiples as KeepMultiples
    from resumable_tf.checkpoint.retention import KeepNewest as KeepNewest
    from resumable_tf.checkpoint.retention import KeepOnePer as KeepOnePer
    from resumable_tf.checkpoint.retention import KeepPinned as KeepPinned
    from resumable_tf.checkpoint.run_config import RunConfig as RunConfig
    from resumable_tf.checkpoint.run_config import open_run as open_run
    from resumable_tf.checkpoint.run_config import read_run as read_run
    from resumable_tf.checkpoint.writer import SaveHandle as SaveHandle

_MODULES = {
    "AnyOf": "policy",
    "AtSteps": "policy",
    "AutoInterval": "interval",
    "Candidate": "retention",
    "Catalog": "catalog",
    "CheckpointInfo": "manifest",
    "Checkpointer": "checkpointer",
    "EpochEnds": "policy",
    "EverySecs": "policy",
    "EverySteps": "policy",
    "FastTier": "fast_tier",
    "FileRecord": "manifest",
    "KeepBest": "retention",
    "KeepMultiples": "retention",
    "KeepNewest": "retention",
    "KeepOnePer": "retention",
    "KeepPinned": "retention",
    "LastSave": "policy",
    "Manifest": "manifest",
    "Moment": "policy",
    "OnImprovement": "policy",
    "RunConfig": "run_config",
    "SaveHandle": "writer",
    "SaveOptions": "options",
    "open_run": "run_config",
    "read_run": "run_config",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Imports a public name's module when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'resumable_tf.checkpoint' has no {name!r}")
    module = importlib.import_module(f"resumable_tf.checkpoint.{_MODULES[name]}")
    return getattr(module, name)
