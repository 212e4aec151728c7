"""Writes what an audited process is after each step; ends the process where planned.

    recorder.restored(state, is_new=False)      # after a restore
    recorder.end_step(state, wait=...)          # after each step, before its save

Only processes that the audit has started have one; see `switch`.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import tensorflow as tf

from resumable_tf.auditing.live_values import live_values
from resumable_tf.auditing.log import (
    BATCH,
    RESTORED,
    START,
    STEP,
    Record,
    append,
)
from resumable_tf.auditing.switch import RUN_DIR_VARIABLE, Plan
from resumable_tf.auditing.tokens import digest
from resumable_tf.errors import UsageError
from resumable_tf.state import TrainState
from resumable_tf.state.coverage import identities
from resumable_tf.state.leaf import replica_components, tensorflow_variable


class Recorder:
    """The log of one audited process."""

    def __init__(self, plan: Plan) -> None:
        """Begins to watch the batches of `tf.data`.

        Args:
            plan: Where to write and when to end.
        """
        self._plan = plan
        self._batches: list[str] = []
        self._labelled: set[str] = set()
        self._last_step = -1
        _watch_batches(self._batches.append)

    def check_run_dir(self, root: str) -> None:
        """Refuses to touch another run directory than the audit's.

        Args:
            root: The run directory that the program is about to use.

        Raises:
            UsageError: If it is another one.
        """
        mine = Path(self._plan.run_dir).resolve()
        if mine not in (Path(root).resolve(), *Path(root).resolve().parents):
            raise UsageError(
                f"the program uses the run directory {root}, and the audit gave it "
                f"{self._plan.run_dir}; pass {{run_dir}} among its arguments, or read "
                f"the environment variable {RUN_DIR_VARIABLE}"
            )

    def restored(self, state: TrainState, *, is_new: bool) -> None:
        """Notes the state that training goes on from.

        Args:
            state: The live objects.
            is_new: Whether there was nothing to restore.
        """
        gc.collect()
        self._batches.clear()  # What a restore reads again is none of the program's.
        self._write(START if is_new else RESTORED, state, frame=sys._getframe(1))

    def live_restored(self, state: TrainState) -> None:
        """Notes once more what lives beside the state, when all of it is put back."""
        self._batches.clear()
        known = identities(map(tensorflow_variable, state.variables()))
        live = live_values(
            covered=lambda v: _is_known(v, known), frame=sys._getframe(1)
        )
        append(self._plan.log, Record(kind=RESTORED, step=state.step, live=live))

    def end_step(
        self,
        state: TrainState,
        *,
        wait: Callable[[], None],
        phase: str = BATCH,
        logs: Mapping[str, Any] | None = None,
        has_extra: bool = True,
    ) -> None:
        """Notes a completed step; kills or ends the process if that is planned.

        Args:
            state: The live objects.
            wait: Waits for the save in flight, so that neither what is found nor the
                step which is resumed from depends on chance.
            phase: Which of the records of this step it is.
            logs: Numbers to compare besides.
            has_extra: Whether `state.extra` is the program's own.
        """
        if state.step == self._last_step and phase == BATCH:
            return
        self._last_step = state.step
        # What the writer's thread makes for a while is none of the program's.
        wait()
        frame = sys._getframe(1)
        self._write(STEP, state, frame, phase=phase, logs=logs, has_extra=has_extra)
        if self._plan.kill_at is not None and state.step >= self._plan.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if state.step >= self._plan.stop_at:
            sys.stdout.flush()
            sys.stderr.flush()
            # An exception could be caught, and the program would go on.
            os._exit(0)

    def _write(
        self,
        kind: str,
        state: TrainState,
        frame: FrameType,
        *,
        phase: str = BATCH,
        logs: Mapping[str, Any] | None = None,
        has_extra: bool = True,
    ) -> None:
        values, labels = self._values(state)
        if has_extra:
            for name, value in state.extra.items():
                values[f"extra/{name}"] = digest(self._without_run_dir(repr(value)))
        for name, number in (logs or {}).items():
            values[f"logs/{name}"] = digest(number)
        known = identities(map(tensorflow_variable, state.variables()))
        live = live_values(covered=lambda v: _is_known(v, known), frame=frame)
        new = {key: label for key, label in labels.items() if key not in self._labelled}
        self._labelled.update(new)
        record = Record(
            kind=kind,
            step=state.step,
            phase=phase,
            state=values,
            labels=new,
            live=live,
            batches=list(self._batches),
            num_replicas=max(
                (len(replica_components(v)) for v in state.variables()), default=1
            ),
        )
        self._batches.clear()
        append(self._plan.log, record)

    def _values(self, state: TrainState) -> tuple[dict[str, str], dict[str, str]]:
        """Returns the hash and the readable name of each value of the state."""
        values, labels = {}, {}
        for entry, obj, read in state.readers():
            if isinstance(obj, tf.data.Iterator):
                continue  # Its bytes depend on how much was prefetched.
            if isinstance(obj, tf.train.experimental.PythonState):
                content = getattr(obj, "fingerprint", obj.serialize)()
                values[entry.key] = digest(content)
            else:
                values[entry.key] = digest(read().numpy())
            labels[entry.key] = entry.owner
        return values, labels

    def _without_run_dir(self, text: str) -> str:
        return text.replace(self._plan.run_dir, "{run_dir}")


def _is_known(variable: Any, known: set[int]) -> bool:
    inner = tensorflow_variable(variable)
    return id(inner) in known or id(getattr(inner, "_variable", inner)) in known


def _watch_batches(note: Callable[[str], None]) -> None:
    """Lets `note` have a hash of each batch that Python takes from `tf.data`."""
    kind = type(iter(tf.data.Dataset.range(1)))
    original = kind._next_internal

    def next_internal(iterator: Any) -> Any:
        values = original(iterator)
        if tf.executing_eagerly():
            flat = tf.nest.flatten(values, expand_composites=True)
            note(digest(*(t.numpy() for t in flat if hasattr(t, "numpy"))))
        return values

    kind._next_internal = next_internal
