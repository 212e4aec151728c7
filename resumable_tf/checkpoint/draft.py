"""What a manifest says about a state, before its files exist.

    draft = draft_manifest(state, metrics={"loss": 2.1}, config=None, time=now)

The writer adds the rest, and commits it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from resumable_tf.checkpoint.environment import environment
from resumable_tf.checkpoint.manifest import Manifest, normalize_json
from resumable_tf.checkpoint.run_config import fingerprint_of
from resumable_tf.state import TrainState


def draft_manifest(
    state: TrainState,
    *,
    metrics: Mapping[str, float] | None,
    config: Mapping[str, Any] | None,
    time: float,
) -> Manifest:
    """Returns the manifest of a state, without what its snapshot knows.

    Args:
        state: The live objects, between two steps.
        metrics: Finite numbers, None without.
        config: The run's settings, None without run.json.
        time: Seconds since 1970.

    Raises:
        TypeError: If `state.extra`, the data's description or a metric is not JSON.
    """
    epoch, batch = state.position()
    described = state.describe_data()
    return Manifest(
        step=int(state.step),
        epoch=epoch,
        batch=batch,
        files=(),
        inventory={},
        optimizers={},
        data=None if described is None else normalize_json(described, what="data"),
        extra=normalize_json(state.extra, what="state.extra"),
        metrics=_finite(metrics or {}),
        versions=environment(),
        topology={},
        config=None if config is None else fingerprint_of(config),
        time=time,
    )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns plain floats.

    Raises:
        TypeError: If one is NaN or infinite, which JSON can't hold.
    """
    values = {str(name): float(value) for name, value in metrics.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise TypeError(f"the metric {name!r} is {value}; save finite numbers only")
    return values
