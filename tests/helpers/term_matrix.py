"""Run as a program: sends SIGTERM to saving processes, at every moment of a save.

    python -m helpers.term_matrix DIRECTORY --scheme local
    python -m helpers.term_matrix DIRECTORY --scheme object --kill-after 3

Each victim saves after each step, and gets SIGTERM in its snapshot, at one storage
operation, or at some moment of the writing. It must end with 75, and the next
process must find the step that it said. With `--kill-after N` it is killed N operations
later, as when the grace is too short: then the last commit must be good. Prints one
line of JSON: how many victims ended how.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from helpers.faulty_storage import FaultyStorage, watch_data_files
from helpers.kill_matrix import Directory, exit_code, fork
from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer, writer
from resumable_tf.state import TrainState
from resumable_tf.storage import open_storage
from resumable_tf.training.preemption import Preempted, PreemptionGuard

ENDLESS = 1000
FIRST_STEP, KEEP_LAST, NEVER = 2, 2, 10**9


@dataclass(frozen=True)
class Moment:
    """When the victim gets SIGTERM."""

    operation: int = NEVER
    after_secs: float | None = None
    in_snapshot: bool = False


def run_victim(storage: FaultyStorage, moment: Moment, size: int, report: int) -> None:
    """Trains and saves until SIGTERM; tells the step that it has saved."""
    watch_data_files(storage)
    state = small_state(size=size)
    if moment.in_snapshot:
        capture = TrainState.capture

        def captured(self: TrainState) -> object:
            os.kill(os.getpid(), signal.SIGTERM)
            return capture(self)

        TrainState.capture = captured  # type: ignore[method-assign]
    try:
        with (
            Checkpointer(storage, keep_last=KEEP_LAST) as checkpointer,
            PreemptionGuard(sources=()) as guard,
        ):
            checkpointer.restore_or_initialize(state)
            if moment.after_secs is not None:
                term = (os.getpid(), signal.SIGTERM)
                threading.Timer(moment.after_secs, os.kill, term).start()
            while state.step < ENDLESS:
                advance(state)
                checkpointer.save(state)
                guard.after_step(state, checkpointer)
    except Preempted as stopped:
        os.write(report, str(stopped.step).encode())
        os._exit(stopped.code)


def prepare(url: str, size: int) -> None:
    """Makes the run that every victim continues."""
    state = small_state(size=size)
    with Checkpointer(url, keep_last=KEEP_LAST) as checkpointer:
        for _ in range(FIRST_STEP):
            advance(state)
            checkpointer.save(state)


def check_survivor(url: str, size: int, said: int | None) -> None:
    """Restores in a fresh process what was said to be saved, exactly, and goes on."""
    state = small_state(size=size)
    with Checkpointer(url, keep_last=KEEP_LAST) as checkpointer:
        checkpointer.restore_or_initialize(state)
        if state.step < FIRST_STEP or said not in (None, state.step):
            raise AssertionError(f"step {said} was saved, {state.step} is there")
        assert_at_step(state, state.step)
        advance(state)
        checkpointer.save(state).result()
        if len(checkpointer.checkpoints()) != KEEP_LAST:
            raise AssertionError(f"left over: {checkpointer.checkpoints()}")


def attack(url: str, settings: argparse.Namespace, moment: Moment) -> int:
    """Stops one victim and checks what it left; returns its exit code."""
    reader, report = os.pipe()
    storage = FaultyStorage(
        open_storage(url),
        fail_at=moment.operation,
        mode="term",
        number=settings.kill_after,
    )
    victim = fork(lambda: run_victim(storage, moment, settings.size, report))
    os.close(report)
    with os.fdopen(reader, "rb") as reports:
        code = exit_code(victim)
        said = reports.read()
    expected = {75} if settings.kill_after is None else {75, -signal.SIGKILL}
    if code not in expected or bool(said) != (code == 75):
        raise AssertionError(f"{moment}: the victim ended with {code}, said {said!r}")
    step = int(said) if said else None
    survivor = fork(lambda: check_survivor(url, settings.size, step))
    if exit_code(survivor) != 0:
        raise AssertionError(f"{url}: wrong after {moment}")
    return code


def moments(settings: argparse.Namespace) -> Iterator[Moment]:
    """Yields the moments that are asked for."""
    for number in range(settings.first, settings.operations, settings.every):
        yield Moment(operation=number)
    for number in range(settings.timed):
        yield Moment(after_secs=0.4 * number / settings.timed)
    if settings.kill_after is None:
        yield Moment(in_snapshot=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--size", type=int, default=50)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--operations", type=int, default=60)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--timed", type=int, default=0)
    parser.add_argument("--kill-after", type=int)
    parser.add_argument("--scheme", choices=["local", "object"], required=True)
    settings = parser.parse_args()
    # On a busy machine a writer of low priority would hardly get its turn.
    writer._NICENESS = 0
    place = Directory(settings.directory, settings.scheme)
    if exit_code(fork(lambda: prepare(place.base, settings.size))) != 0:
        raise AssertionError("the first checkpoints could not be saved")
    codes: collections.Counter[int] = collections.Counter()
    for number, moment in enumerate(moments(settings)):
        with place.copy(number) as url:
            codes[attack(url, settings, moment)] += 1
    print(json.dumps({str(code): count for code, count in codes.items()}))


if __name__ == "__main__":
    main()
