"""Log files of Keras' callbacks, cut to what they were at a checkpoint.

    file = CsvFile(csv_logger)
    saved = file.changed()
    file.apply(saved)           # in the next process: no line doubled, none missing

Which files these are the live callback tells, never the checkpoint.
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from resumable_tf.state.value_kinds import MalformedValue

_COUNTERS = ("_global_train_batch", "_global_test_batch", "_previous_epoch_iterations")
_EVENTS = "events.out.tfevents."
_PARTS = ("sizes", "foreign", "counters")


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

    def check(self, saved: Any) -> None:
        """Makes sure that these are lines and columns.

        Raises:
            MalformedValue: If they are not.
        """
        if type(saved) is not dict or saved.keys() != {"lines", "keys"}:
            raise MalformedValue("it is no record of a CSV file")
        keys = saved["keys"]
        are_names = keys is None or (
            type(keys) is list and all(type(key) is str for key in keys)
        )
        if type(saved["lines"]) is not bytes or not are_names:
            raise MalformedValue("the lines of a CSV file are no bytes")

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

    def check(self, saved: Any) -> None:
        """Makes sure that these are lengths of files and counters.

        Raises:
            MalformedValue: If they are not.
        """
        if type(saved) is not dict or saved.keys() != {"sizes", "foreign", "counters"}:
            raise MalformedValue("it is no record of event files")
        sizes, foreign, counters = (saved[key] for key in _PARTS)
        is_known = type(sizes) is dict and type(foreign) is list
        is_known = is_known and type(counters) is dict
        if not is_known or not counters.keys() <= set(_COUNTERS):
            raise MalformedValue("it is no record of event files")
        numbers = [n for n in counters.values() if n is not None]
        numbers += sizes.values()
        if not all(type(n) is int and n >= 0 for n in numbers):
            raise MalformedValue("the length of an event file is no number")
        if not all(type(path) is str for path in (*sizes, *foreign)):
            raise MalformedValue("the name of an event file is no text")

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
                if _leads_elsewhere(path, root):
                    continue
                found[os.path.relpath(path, root)] = int(tf.io.gfile.stat(path).length)
        return found


def _started(name: str) -> int:
    """Returns the second in which an event file was begun."""
    return int(name.removeprefix(_EVENTS).split(".")[0])


def _leads_elsewhere(path: str, root: str) -> bool:
    """Returns whether a link on the way to a local file leads out of its directory."""
    if "://" in root:
        return False
    inner = os.path.relpath(path, root)
    return os.path.realpath(path) != os.path.join(os.path.realpath(root), inner)


def _cut(path: str, size: int) -> None:
    if "://" not in path:
        # At once, and never through a link that has come since.
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)
        return
    with tf.io.gfile.GFile(path, "rb") as file:
        head = file.read(size)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(head)
