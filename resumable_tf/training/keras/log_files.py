"""Log files of Keras' callbacks, cut to what they were at a checkpoint.

file = CsvFile(csv_logger)
saved = file.changed()
file.apply(saved)           # in the next process: no line doubled, none missing
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

_COUNTERS = ("_global_train_batch", "_global_test_batch", "_previous_epoch_iterations")
_EVENTS = "events.out.tfevents."


class CsvFile:
    """The file of a `CSVLogger`.

    Keras opens it anew when training begins, and without `append` it is then empty:
    the lines are kept in the checkpoint (one an epoch).
    """

    def __init__(self, callback: Any) -> None:
        """Takes the callback.

        Args:
            callback: A `CSVLogger` of either Keras.
        """
        self._callback = callback

    def changed(self) -> dict[str, Any]:
        """Returns the lines and the columns."""
        self._callback.csv_file.flush()
        lines = b""
        # tf_keras opens the file with the first line only.
        if tf.io.gfile.exists(self._callback.filename):
            with tf.io.gfile.GFile(self._callback.filename, "rb") as file:
                lines = file.read()
        return {"lines": lines, "keys": self._callback.keys}

    def apply(self, saved: dict[str, Any]) -> None:
        """Writes the saved lines in place of all others."""
        callback = self._callback
        callback.csv_file.close()
        with tf.io.gfile.GFile(callback.filename, "wb") as file:
            file.write(saved["lines"])
        # Keras asks Python's files whether they are closed; TensorFlow's can't say.
        is_gfile = isinstance(callback.csv_file, tf.io.gfile.GFile)
        opened = tf.io.gfile.GFile if is_gfile else open
        callback.csv_file = opened(callback.filename, "a")
        callback.keys = saved["keys"]
        callback.writer = None
        callback.append_header = not saved["lines"]


class EventFiles:
    """The event files below a `TensorBoard` callback's directory.

    Files are cut to the length that they had; files that a killed process began after
    the checkpoint are removed, since training writes these events again. Files that
    were there before the run are left alone.
    """

    def __init__(self, callback: Any, *, began: float) -> None:
        """Notes which files are there already.

        Args:
            callback: A `TensorBoard` callback of either Keras.
            began: When this start of the program began, in seconds since 1970; files
                begun later are its own.
        """
        self._callback = callback
        self._began = int(began)
        self._foreign = sorted(self._sizes(before=self._began))

    def changed(self) -> dict[str, Any]:
        """Returns the files' lengths and the callback's counters."""
        for writer in self._callback._writers.values():
            writer.flush()
        counters = {name: getattr(self._callback, name, None) for name in _COUNTERS}
        sizes = self._sizes()
        return {"sizes": sizes, "foreign": self._foreign, "counters": counters}

    def apply(self, saved: dict[str, Any]) -> None:
        """Cuts the files."""
        for path, size in self._sizes(before=self._began).items():
            if path in saved["foreign"]:
                continue
            kept = saved["sizes"].get(path, 0)
            full = os.path.join(self._callback.log_dir, path)
            if kept == 0:
                tf.io.gfile.remove(full)
            elif kept < size:
                _cut(full, kept)
        self._foreign = saved["foreign"]
        for name, value in saved["counters"].items():
            if value is not None:
                setattr(self._callback, name, value)

    def _sizes(self, *, before: int | None = None) -> dict[str, int]:
        """Returns the length of each event file, by its path in the directory."""
        root = str(self._callback.log_dir)
        found = {}
        for directory, _, names in tf.io.gfile.walk(root):
            for name in names:
                if not name.startswith(_EVENTS):
                    continue
                if before is not None and _started(name) >= before:
                    continue  # of this process
                path = os.path.join(directory, name)
                found[os.path.relpath(path, root)] = int(tf.io.gfile.stat(path).length)
        return found


def _started(name: str) -> int:
    """Returns the second in which an event file was begun."""
    return int(name.removeprefix(_EVENTS).split(".")[0])


def _cut(path: str, size: int) -> None:
    with tf.io.gfile.GFile(path, "rb") as file:
        head = file.read(size)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(head)
