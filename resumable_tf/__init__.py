"""Training that can be killed at any moment and continues bit for bit.

    import resumable_tf as rtf

    state = rtf.TrainState(model=model, optimizer=optimizer, data=dataset)
    with rtf.Checkpointer("runs/demo", every_steps=100) as checkpointer:
        checkpointer.restore_or_initialize(state)
        for batch in dataset.from_step(state.step):
            train_step(batch)
            state.step += 1
            checkpointer.maybe_save(state)

Names are resolved when they are first used, so that importing the package does not
import TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resumable_tf.auditing.function import audit as audit
    from resumable_tf.auditing.report import AuditReport as AuditReport
    from resumable_tf.checkpoint import AtSteps as AtSteps
    from resumable_tf.checkpoint import AutoInterval as AutoInterval
    from resumable_tf.checkpoint import Checkpointer as Checkpointer
    from resumable_tf.checkpoint import CheckpointInfo as CheckpointInfo
    from resumable_tf.checkpoint import EpochEnds as EpochEnds
    from resumable_tf.checkpoint import EverySecs as EverySecs
    from resumable_tf.checkpoint import EverySteps as EverySteps
    from resumable_tf.checkpoint import FastTier as FastTier
    from resumable_tf.checkpoint import KeepBest as KeepBest
    from resumable_tf.checkpoint import KeepMultiples as KeepMultiples
    from resumable_tf.checkpoint import KeepNewest as KeepNewest
    from resumable_tf.checkpoint import KeepOnePer as KeepOnePer
    from resumable_tf.checkpoint import KeepPinned as KeepPinned
    from resumable_tf.checkpoint import OnImprovement as OnImprovement
    from resumable_tf.checkpoint import SaveHandle as SaveHandle
    from resumable_tf.checkpoint import SaveOptions as SaveOptions
    from resumable_tf.data.dataset import RecordDataset as RecordDataset
    from resumable_tf.data.prepare import PrepareSettings as PrepareSettings
    from resumable_tf.data.prepare import prepare_records as prepare_records
    from resumable_tf.data.resumable_iterator import (
        ResumableIterator as ResumableIterator,
    )
    from resumable_tf.errors import CheckpointCorruptError as CheckpointCorruptError
    from resumable_tf.errors import CheckpointMismatchError as CheckpointMismatchError
    from resumable_tf.errors import ConfigMismatchError as ConfigMismatchError
    from resumable_tf.errors import DataFormatError as DataFormatError
    from resumable_tf.errors import DataMismatchError as DataMismatchError
    from resumable_tf.errors import FastTierMismatchError as FastTierMismatchError
    from resumable_tf.errors import NonFiniteLossError as NonFiniteLossError
    from resumable_tf.errors import ResumableError as ResumableError
    from resumable_tf.serving.export import export_translator as export_translator
    from resumable_tf.serving.translator import Translator as Translator
    from resumable_tf.state import TrainState as TrainState
    from resumable_tf.training.allocator import keep_freed_memory as keep_freed_memory
    from resumable_tf.training.config import TrainConfig as TrainConfig
    from resumable_tf.training.keras.fit import fit as fit
    from resumable_tf.training.keras.resume_callback import (
        ResumeCallback as ResumeCallback,
    )
    from resumable_tf.training.preemption import Preempted as Preempted
    from resumable_tf.training.preemption import PreemptionGuard as PreemptionGuard
    from resumable_tf.training.run import train as train

_MODULES = {
    "AuditReport": "auditing.report",
    "audit": "auditing.function",
    "CheckpointInfo": "checkpoint",
    "Checkpointer": "checkpoint",
    "FastTier": "checkpoint",
    "SaveHandle": "checkpoint",
    "SaveOptions": "checkpoint",
    "AtSteps": "checkpoint",
    "AutoInterval": "checkpoint",
    "EpochEnds": "checkpoint",
    "EverySecs": "checkpoint",
    "EverySteps": "checkpoint",
    "KeepBest": "checkpoint",
    "KeepMultiples": "checkpoint",
    "KeepNewest": "checkpoint",
    "KeepOnePer": "checkpoint",
    "KeepPinned": "checkpoint",
    "OnImprovement": "checkpoint",
    "RecordDataset": "data.dataset",
    "PrepareSettings": "data.prepare",
    "prepare_records": "data.prepare",
    "ResumableIterator": "data.resumable_iterator",
    "CheckpointCorruptError": "errors",
    "CheckpointMismatchError": "errors",
    "ConfigMismatchError": "errors",
    "DataFormatError": "errors",
    "DataMismatchError": "errors",
    "FastTierMismatchError": "errors",
    "NonFiniteLossError": "errors",
    "ResumableError": "errors",
    "Translator": "serving.translator",
    "export_translator": "serving.export",
    "TrainState": "state",
    "TrainConfig": "training.config",
    "keep_freed_memory": "training.allocator",
    "Preempted": "training.preemption",
    "PreemptionGuard": "training.preemption",
    "ResumeCallback": "training.keras.resume_callback",
    "fit": "training.keras.fit",
    "train": "training.run",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Imports a public name's module when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'resumable_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"resumable_tf.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
