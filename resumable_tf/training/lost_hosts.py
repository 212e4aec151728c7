"""Says plainly that a host of a training is gone, instead of TensorFlow's own error.

    with naming_lost_hosts("runs/demo"):
        train_steps(iterator, step, num_steps)

The process must end then: TensorFlow connects its hosts once in a process's life. The
training script ends with exit code 69, upon which a supervisor starts it again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from resumable_tf.errors import HostLostError, SaveError

_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
    tf.errors.CancelledError,
)
# What a worker that was started again answers: it knows nothing of this client.
_FORGOTTEN = "Unable to find a context_id"
_TASK = re.compile(r"(/job:\w+)(?:/replica:\d+)?(/task:\d+)")


@contextlib.contextmanager
def naming_lost_hosts(run_dir: str) -> Iterator[None]:
    """Turns TensorFlow's errors about hosts that are gone into one of ours.

    Args:
        run_dir: Where the run continues, for the message.

    Yields:
        Nothing.

    Raises:
        HostLostError: If a host is gone, or was started again without this process.
    """
    try:
        yield
    except (tf.errors.OpError, SaveError) as error:
        # TensorFlow's save waits for steps under way, and finds their errors.
        found: Any = error.__cause__ if isinstance(error, SaveError) else error
        if not _is_loss(found):
            raise
        named = sorted({job + task for job, task in _TASK.findall(found.message)})
        raise HostLostError(
            f"lost a host of this training ({', '.join(named) or 'none named'}): "
            f"{type(found).__name__}: {_reason(found.message)}\n"
            "Start the processes of all hosts again with the same command; training "
            f"goes on from the last checkpoint in {run_dir}."
        ) from error


def _is_loss(error: Any) -> bool:
    if not isinstance(error, tf.errors.OpError):
        return False
    return isinstance(error, _LOST) or _FORGOTTEN in error.message


def _reason(message: str) -> str:
    """Returns the line of TensorFlow's message that tells the cause."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if "abort" in line or "Unavailable" in line]
    return (telling or lines or ["no reason given"])[0]
