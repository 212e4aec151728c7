"""What gcsfs has written to gs://, TensorFlow's own client can read there.

Guards against a checkpoint on an object store that only this project can open.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fake_gcs import FakeGcs
from helpers.fake_gcs_faults import Fault
from helpers.small_state import advance, small_state
from helpers.tls_proxy import TlsProxy

from resumable_tf.checkpoint import Checkpointer

PROGRAM = Path(__file__).parent.parent / "helpers" / "tensorflow_reads.py"
# All that the fake can do to a request; each hits another one of the same run.
FAULTS = [
    *(
        Fault("status", match=method, skip=skip, status=status)
        for method in ("GET", "POST", "PUT")
        for skip, status in ((1, 429), (1, 500), (0, 503))
    ),
    *(Fault("reset", match=method, skip=1) for method in ("GET", "POST", "PUT")),
    Fault("reset-after", match="PUT"),
    Fault("reset-after", match="DELETE"),
    Fault("status-after", match="POST", status=503),
    Fault("truncate", match="GET /bucket/.*ckpt-3"),
    Fault("slow", match="GET", times=3),
    Fault("short", match="PUT"),
]


@pytest.mark.slow
@pytest.mark.parametrize("has_faults", [False, True])
def test_tensorflow_alone_reads_what_was_saved(
    fake_gcs: FakeGcs, has_faults: bool
) -> None:
    state = small_state()
    with Checkpointer("gs://bucket/run") as checkpointer:
        checkpointer.restore_or_initialize(state)
        advance(state, 3)
        checkpointer.save(state)
    if has_faults:
        for fault in FAULTS:
            fake_gcs.plan.add(dataclasses.replace(fault))
    with TlsProxy(fake_gcs.url) as proxy:
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "gs://bucket/run", "gs://bucket/other"],
            env={**os.environ, **proxy.environment, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["path"] == "gs://bucket/run/checkpoints/ckpt-3"
    weights = state.trackables["small"].weights.numpy().tolist()
    assert found["weights"] == weights
    assert found["is_restored"]
    names = {name for name in found["names"] if name.endswith(".index")}
    assert names == {"ckpt-2.index", "ckpt-3.index"}
    assert "moved" in found["names"]
    injected = sum(fault.times for fault in FAULTS) if has_faults else 0
    assert fake_gcs.plan.num_injected == injected
