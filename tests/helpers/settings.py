"""Small settings that several tests prepare records, and train, with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import resumable_tf as rtf
from resumable_tf.data.prepare import PrepareSettings

SETTINGS = PrepareSettings(vocab_size=150, target_length=32, rows_per_shard=16)


def small_run(run_dir: Path, corpus: Path, **changes: Any) -> rtf.TrainConfig:
    """Returns six steps on a corpus, with records beside it, and what is changed."""
    settings: dict[str, Any] = {
        "run_dir": str(run_dir),
        "data": f"tsv:{corpus}",
        "records": str(corpus.parent / "records"),
        "row_length": 32,
        "vocab_size": 150,
        "batch_size": 8,
        "stop_step": 6,
        "save_every_steps": 2,
        "steps_per_call": 2,
        "is_deterministic": False,
        **changes,
    }
    return rtf.TrainConfig(**settings)
