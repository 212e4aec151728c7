"""TensorFlow's `checkpoint` file, written without TensorFlow.

    data = format_state({1000: 1.7e9, 2000: 1.7e9})
    parse_steps(data)      # [1000, 2000]

`tf.train.latest_checkpoint` and `tf.train.CheckpointManager` read it. The manager
forgets entries without a timestamp, or with one that is not after
`last_preserved_timestamp`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from resumable_tf.checkpoint.layout import bundle_name

_PATH = re.compile(r'^all_model_checkpoint_paths: "(?:.*/)?ckpt-(\d+)"$', re.MULTILINE)


def format_state(times: Mapping[int, float]) -> bytes:
    """Returns the file's contents.

    Args:
        times: Seconds since 1970 of each committed checkpoint, by step; not empty.
    """
    steps = sorted(times)
    lines = [f'model_checkpoint_path: "{bundle_name(steps[-1])}"']
    lines += [f'all_model_checkpoint_paths: "{bundle_name(step)}"' for step in steps]
    lines += [
        f"all_model_checkpoint_timestamps: {float(times[step])!r}" for step in steps
    ]
    lines.append(f"last_preserved_timestamp: {min(times.values()) - 1.0!r}")
    return ("\n".join(lines) + "\n").encode("ascii")


def parse_steps(data: bytes) -> list[int]:
    """Returns the steps that the file lists, in its order."""
    return [int(step) for step in _PATH.findall(data.decode("utf-8", "replace"))]
