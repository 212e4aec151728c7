"""TensorFlow's `checkpoint` file, written without TensorFlow.

    data = format_state({1000: 1.7e9, 2000: 1.7e9})
    parse_steps(data)      # [1000, 2000]
    is_sound(data)         # True

`tf.train.latest_checkpoint` and `tf.train.CheckpointManager` read it. The manager
forgets entries without a timestamp, or with one that is not after
`last_preserved_timestamp`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from resumable_tf.checkpoint.layout import bundle_name

_LINE = re.compile(
    r"(?P<path>all_model_checkpoint_paths|model_checkpoint_path): "
    r'"ckpt-(?P<step>0|[1-9][0-9]{0,18})"'
    r"|(?P<time>all_model_checkpoint_timestamps|last_preserved_timestamp): "
    r"(?P<secs>-?[0-9][-+.0-9e]{0,30})"
)
_PATH = re.compile(
    r'^all_model_checkpoint_paths: "(?:.*/)?ckpt-(0|[1-9][0-9]{0,18})"$', re.MULTILINE
)
MAX_BYTES = 4 * 2**20
"""Of the file; twenty thousand checkpoints need as much."""


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


def is_sound(data: bytes) -> bool:
    """Returns whether TensorFlow can read the file and believe it.

    It fails at a byte that is no text, and forgets what it can't read otherwise. A path
    that leads elsewhere is none that was written for this directory.

    Args:
        data: The file's contents, as this module or TensorFlow wrote them.
    """
    fields: dict[str, list[float]] = {}
    try:
        for line in data.decode("ascii").splitlines():
            match = _LINE.fullmatch(line)
            if match is None:
                return False
            name, value = match["path"] or match["time"], match["step"] or match["secs"]
            fields.setdefault(name, []).append(float(value))
    except ValueError:
        return False
    steps = fields.get("all_model_checkpoint_paths", [])
    times = fields.get("all_model_checkpoint_timestamps", [])
    preserved = fields.get("last_preserved_timestamp", [])
    is_complete = len(times) == len(steps) > 0 and len(preserved) <= 1
    newest = fields.get("model_checkpoint_path")
    is_believed = all(time > max(preserved, default=-math.inf) for time in times)
    return is_complete and is_believed and newest == steps[-1:]
