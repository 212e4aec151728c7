"""Random operations whose state is inside TensorFlow, out of everybody's reach.

    draws = Draws()             # from here on
    draws.check()               # at a save

`tf.random.normal([2])` outside of a `tf.function` makes a new operation each time, with
a seed drawn from TensorFlow's global generator, which is saved. With a seed of its own
it is one operation that goes on counting, and the count can't be read. Without any seed
the operation takes one from the machine.
"""

from __future__ import annotations

import logging
import sys
import sysconfig
import weakref
from pathlib import Path
from types import FrameType
from typing import Any

import tensorflow as tf

from resumable_tf.errors import StateError
from resumable_tf.state._tensorflow import is_tracing, outermost_graph, watch_seeds

_PACKAGE = str(Path(__file__).parent.parent)
_FOREIGN = ("site-packages", "dist-packages")

_NUM_LOCATED = 1000
"""Draws whose place is looked for: it costs more than the draw."""

_log = logging.getLogger(__name__)


class _Heard:
    """What was drawn in this process; TensorFlow has one such place, and so have we.

    Attributes:
        seeded: Where each seed of an operation's own was used last, and how often.
        unseeded: Where an operation without any seed was made, the latest.
        num_unseeded: How many of them there were.
        num_traced: Random operations that were traced into graphs.
        graphs: Outermost graphs with such operations, and how many there were by then.
    """

    def __init__(self) -> None:
        self.seeded: dict[int, tuple[str, int]] = {}
        self.unseeded: str | None = None
        self.num_unseeded = 0
        self.num_traced = 0
        self.graphs: Any = weakref.WeakKeyDictionary()
        self.is_listening = False

    def listen(self) -> None:
        if not self.is_listening:
            watch_seeds(self.note)
            self.is_listening = True

    def note(self, op_seed: Any, has_seed: bool) -> None:
        if not tf.executing_eagerly():
            self.num_traced += 1
            self.graphs[outermost_graph()] = self.num_traced
        elif op_seed is not None and not is_tracing():
            # Initial values that a traced step makes are drawn once.
            key = int(op_seed)
            count = self.seeded.get(key, ("", 0))[1]
            self.seeded[key] = users_line(sys._getframe(1)), count + 1
        elif op_seed is None and not has_seed:
            self.num_unseeded += 1
            if self.num_unseeded < _NUM_LOCATED:
                self.unseeded = users_line(sys._getframe(1))


_heard = _Heard()


class Draws:
    """The random operations since a training state was made."""

    _has_warned = False

    def __init__(self) -> None:
        """Begins to listen."""
        _heard.listen()
        self._before = dict(_heard.seeded)
        self._unseeded_before = _heard.num_unseeded
        self._traced_before = _heard.num_traced

    @property
    def num_traced(self) -> int:
        """Random operations that were traced into graphs in this process."""
        return _heard.num_traced

    def are_in(self, graph: Any) -> bool:
        """Returns whether random operations were traced into a graph since then."""
        return bool(_heard.graphs.get(graph, 0) > self._traced_before)

    def check(self) -> None:
        """Refuses what a resumed run would draw once more.

        Raises:
            StateError: If an operation with a seed of its own was run.
        """
        for seed, (where, count) in _heard.seeded.items():
            if count > self._before.get(seed, ("", 0))[1]:
                raise StateError(
                    f"{where} draws random numbers outside of a tf.function with "
                    f"seed={seed}: TensorFlow counts in a hidden state how often, and "
                    "a resumed run would draw the first ones again. Leave seed= out "
                    "(tf.random.set_seed makes that reproducible, and its state is "
                    "saved), or use tf.random.stateless_* with a seed made of the step"
                )
        if _heard.num_unseeded > self._unseeded_before and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "%s draws random numbers without any seed, so no two runs of this "
                "program are alike, interrupted or not; call tf.random.set_seed or "
                "tf.keras.utils.set_random_seed at its beginning",
                _heard.unseeded,
            )


def users_line(frame: FrameType | None) -> str:
    """Returns "file:line" of the innermost frame that is of the user's program.

    Args:
        frame: Where to begin.
    """
    while frame is not None:
        if is_users_file(frame.f_code.co_filename):
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "the program"


def is_users_file(file: str) -> bool:
    """Returns whether a source file is none of a library's."""
    if file.startswith("<") or any(part in file for part in _FOREIGN):
        return False
    paths = sysconfig.get_paths()
    libraries = [_PACKAGE, paths["stdlib"], paths["platstdlib"]]
    return not any(file.startswith(f"{library}/") for library in libraries)
