"""TensorFlow's errors about hosts that are gone become one of ours; no other does."""

from __future__ import annotations

import pytest
import tensorflow as tf

from resumable_tf.errors import HostLostError, SaveError
from resumable_tf.training.lost_hosts import naming_lost_hosts

_MESSAGE = (
    "Graph execution error:\n\nDetected at node x\n"
    "Collective ops is aborted by: reset by /job:worker/replica:0/task:1\n"
    "while calling /job:worker/task:1"
)


@pytest.mark.parametrize("is_in_save", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        tf.errors.UnavailableError(None, None, _MESSAGE),
        tf.errors.DeadlineExceededError(None, None, _MESSAGE),
        tf.errors.AbortedError(None, None, _MESSAGE),
        tf.errors.InvalidArgumentError(
            None, None, f"Unable to find a context_id\n{_MESSAGE}"
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lost_host_is_named_with_the_cause_and_what_to_do(
    error: Exception, is_in_save: bool
) -> None:
    with pytest.raises(HostLostError) as caught, naming_lost_hosts("runs/demo"):
        if is_in_save:
            raise SaveError("not saved") from error
        raise error
    message = str(caught.value)
    assert message.startswith("lost a host of this training (/job:worker/task:1): ")
    assert "aborted by: reset by" in message
    assert "last checkpoint in runs/demo" in message


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.InvalidArgumentError(None, None, "shapes differ"),
        tf.errors.ResourceExhaustedError(None, None, "out of memory"),
        SaveError("disk full"),
        ValueError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, naming_lost_hosts("runs/demo"):
        raise error
    assert caught.value is error
