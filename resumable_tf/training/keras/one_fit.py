"""One run directory for each `fit`: what tells a second fit from the same one again.

    fit = OneFit(call, root="/home/me/runs/demo")
    fit.check_first()       # refuses what another fit of this process has completed
    fit.check_epochs(7)     # refuses a run that is longer than this fit
    fit.completed()

A program that is started again must get its finished training back at once. The second
fit of a program, on the directory of the first, would get the same: the weights and the
history of another training, without a word. What the first start has completed or found
complete, no other fit of the same process is; and a fit by arrays has the same rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
import tensorflow as tf

from resumable_tf.errors import ConfigMismatchError, UsageError
from resumable_tf.training.keras.fit_call import FitCall

# It has to outlive all objects of a fit, and no other process may know of it.
_completed: dict[str, str] = {}

_LIBRARIES = ("keras", "tf_keras", "resumable_tf", "tensorflow")
_NUM_ROWS = 64
_MOST_BYTES = 4 << 20


class OneFit:
    """A `fit` and the run directory that it has for itself."""

    def __init__(self, call: FitCall, *, root: str) -> None:
        """Takes the running `fit`.

        Args:
            call: The running `fit`.
            root: The run directory.
        """
        self._call = call
        self._root = root
        # The same place by another name, unless it is a URL.
        self._key = os.path.realpath(root)
        self._now = _describe(call)

    def check_first(self) -> None:
        """Refuses a directory that belongs to another fit of this program.

        Raises:
            UsageError: If this process has completed a fit there.
        """
        if self._key in _completed:
            raise UsageError(
                f"{self._root} belongs to another fit of this program, which is "
                f"complete:\n  that one: {_completed[self._key]}\n"
                f"  now:      {self._now}\n"
                f"{self._advice}. Its weights and its history would be those of the "
                "other one, without a single step of training"
            )

    def check_epochs(self, done: int) -> None:
        """Refuses a run that has been trained for longer than this fit would.

        Args:
            done: Epochs that the restored run has done.

        Raises:
            ConfigMismatchError: If that are more than `epochs`.
        """
        if done > self._call.epochs:
            raise ConfigMismatchError(
                f"{self._root} holds a training of {done} epochs already, and fit was "
                f"called with epochs={self._call.epochs}.\n  checkpoint: {done} epochs "
                f"done\n  now:        {self._now}\nUse epochs={done} or more to go on "
                f"with it. {self._advice}",
                saved={"epochs": done},
                now={"epochs": self._call.epochs},
            )

    def completed(self) -> None:
        """Notes that this fit has come to its end, or had done so before."""
        _completed[self._key] = self._now

    @property
    def _advice(self) -> str:
        return (
            "Give each fit a run directory of its own, such as "
            f'ResumeCallback("{self._root}/second-fit")'
        )


def forget_completed() -> None:
    """Makes this process one that has completed no fit, as a new one is."""
    _completed.clear()


def digest_rows(call: FitCall) -> str | None:
    """Returns a digest of some of the rows that are trained on, None if not known.

    Folds of one data set have equal shapes; their rows differ.

    Args:
        call: A `fit` of arrays and tensors, or of a dataset that was made of these.
    """
    hasher = hashlib.sha256()
    arrays = [leaf for leaf in tf.nest.flatten(call.arrays) if leaf is not None]
    if isinstance(call.training_data, tf.data.Dataset):
        arrays = list(_sources(call.training_data))
    if not arrays or not all(_is_array(array) for array in arrays):
        return None
    for array in arrays:
        num_rows = int(array.shape[0])
        row_bytes = max(1, int(np.prod(array.shape[1:])) * 8)
        count = max(1, min(_NUM_ROWS, num_rows, _MOST_BYTES // row_bytes))
        indices = np.linspace(0, max(num_rows - 1, 0), count).astype(int)
        rows = [np.asarray(array[int(index)]) for index in indices if num_rows]
        hasher.update(f"{array.dtype}{tuple(array.shape)}".encode())
        for row in rows:
            is_bytes = row.dtype.kind == "O"
            hasher.update(repr(row.tolist()).encode() if is_bytes else row.tobytes())
    return hasher.hexdigest()


def _sources(dataset: Any) -> Iterator[Any]:
    """Yields the tensors that a pipeline reads, but for the names of its files.

    Files may be found in another place than before.
    """
    for tensor in getattr(dataset, "_tensors", ()):
        if tensor.dtype not in (tf.string, tf.variant, tf.resource):
            yield tensor
    for source in dataset._inputs():
        yield from _sources(source)


def _is_array(obj: Any) -> bool:
    is_tensor = isinstance(obj, tf.Tensor) and hasattr(obj, "numpy")
    return (isinstance(obj, np.ndarray) or is_tensor) and len(obj.shape) > 0


def _describe(call: FitCall) -> str:
    where = next(_outside(call.frame), None)
    place = f"{where.f_code.co_filename}:{where.f_lineno}" if where else "unknown"
    return f"fit at {place}, model {call.model.name!r}, epochs={call.epochs}"


def _outside(frame: FrameType | None) -> Iterator[FrameType]:
    """Yields the frames of the user's program, the innermost first."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.split(".")[0] not in _LIBRARIES:
            yield frame
        frame = frame.f_back
