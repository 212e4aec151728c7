"""Python values of a `fit` inside its checkpoints.

record = FitRecord()
record.value = {"callbacks": [...]}     # saved as bytes with the state around it
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from resumable_tf.state.python_state import damaged, decode_part
from resumable_tf.state.python_values import encode

_RECORDED = {"data", "callbacks", "random", "is_stopped"}


class FitRecord(tf.train.experimental.PythonState):  # type: ignore[misc]
    """Python values inside a checkpoint.

    Attributes:
        value: What is saved, and what was restored.
    """

    def __init__(self) -> None:
        """Begins empty."""
        super().__init__()
        self.value: dict[str, Any] = {}

    def serialize(self) -> bytes:
        """Returns the values as bytes; TensorFlow asks while saving."""
        return encode(self.value)

    def deserialize(self, string_value: bytes) -> None:
        """Takes the values; TensorFlow calls it while restoring.

        Raises:
            CheckpointCorruptError: If the bytes are no such values.
        """
        value = decode_part(string_value, name="fit")
        if type(value) is not dict or not value.keys() >= _RECORDED:
            raise damaged("fit", "it is no record of fit")
        self.value = value

    def fingerprint(self) -> bytes:
        """Returns nothing: an audit compares the objects that the values belong to."""
        return b""
