"""Run as a program: kills processes that save to two tiers, and looks what is left.

    python -m helpers.tier_matrix DIRECTORY --scheme local --saves 2 --stride 1
    python -m helpers.tier_matrix DIRECTORY --scheme local --again

A victim is killed at one storage operation of either tier, whichever thread makes it,
the one that copies included; with --again it saves its last step a second and a third
time. Then the run is continued twice, in new processes: by the same machine, and by
another one, that has the durable tier only. Prints one line of JSON: how many victims
were killed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from helpers.fake_gcs import BUCKET
from helpers.faulty_storage import FaultyStorage, watch_data_files
from helpers.kill_matrix import exit_code, fork
from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import (
    Catalog,
    Checkpointer,
    FastTier,
    SaveOptions,
    writer,
)
from resumable_tf.storage import Storage, open_storage

FIRST_STEP = 3
EVERY_STEPS = 2
KEEP_LAST = 2
NEVER = 10**9
DURABLE = 128
"""Added to a reported step that the durable tier has too."""


class Counted(FaultyStorage):
    """Kills at one operation, counted over all storages and threads."""

    lock = threading.Lock()

    def __init__(self, storage: Storage, *, fail_at: int, log: list[str]) -> None:
        super().__init__(storage, fail_at=fail_at, mode="kill")
        self.log = log

    def _operate(self, kind: str, name: str) -> bool:
        with self.lock:
            return super()._operate(kind, name)


def checkpointer_of(durable: Any, fast: Any) -> Checkpointer:
    tier = FastTier(fast, every_steps=1, keep_last=KEEP_LAST)
    options = SaveOptions(fast_tier=tier)
    return Checkpointer(
        durable, every_steps=EVERY_STEPS, keep_last=KEEP_LAST, options=options
    )


def train(
    durable: Any,
    fast: Any,
    *,
    stop_step: int,
    report: Callable[[int], None],
    again: bool = False,
) -> None:
    """Saves after each step; reports what has been committed, and where."""
    state = small_state()
    with checkpointer_of(durable, fast) as checkpointer:
        checkpointer.restore_or_initialize(state)
        while state.step < stop_step:
            advance(state)
            handle = checkpointer.maybe_save(state)
            if handle is not None:
                report(handle.result().step)
        checkpointer.wait()
        newest = Catalog(checkpointer.storage).steps()[-1]
        report(DURABLE + newest)
        if again:
            for _ in range(2):  # The first may be new to the run directory.
                checkpointer.save(state).result()
                checkpointer.wait()
                report(DURABLE + state.step)


def check_survivor(durable: str, fast: str, *, at_least: int, stop_step: int) -> None:
    """Continues, exactly, from what must be there; then looks around."""
    state = small_state()
    with checkpointer_of(durable, fast) as checkpointer:
        checkpointer.restore_or_initialize(state)
        if state.step < at_least:
            raise AssertionError(f"{at_least} was saved, {state.step} is there")
        assert_at_step(state, state.step)
        while state.step < stop_step:
            advance(state)
            checkpointer.maybe_save(state)
        checkpointer.save(state)
    for tier in (durable, fast):
        last = small_state()
        Checkpointer(tier).restore(last)
        assert_at_step(last, stop_step)
    checked = open_storage(durable)
    steps = Catalog(checked).steps()
    expected = {"checkpoint"}
    for step in steps:
        names = ("data-00000-of-00001", "index", "manifest.json")
        expected |= {f"ckpt-{step}.{name}" for name in names}
    found = {name.rsplit("/", 1)[1] for name in checked.list("checkpoints")}
    if found != expected or len(steps) != KEEP_LAST:
        raise AssertionError(f"the run directory holds {sorted(found)}")
    if len(Catalog(open_storage(fast)).steps()) > KEEP_LAST:
        raise AssertionError("the fast tier was not pruned")


class Places:
    """The run directory and the fast tiers, always at the same places."""

    def __init__(self, directory: str, server: str | None) -> None:
        self.server = server
        self.live = os.path.join(directory, "live")
        self.kept = os.path.join(directory, "kept")
        self.fast = os.path.join(self.live, "fast")
        self.fresh = os.path.join(self.live, "fresh")
        self.durable = os.path.join(self.live, "run")
        if server is not None:
            os.environ["STORAGE_EMULATOR_HOST"] = server
            os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
            self.durable = f"gs://{BUCKET}/run"

    def keep(self, name: str) -> None:
        """Remembers the state of all places by a name."""
        self._copy(self.live, f"{self.kept}-{name}", "run", name)

    def reset(self, name: str) -> None:
        """Brings that state back."""
        self._copy(f"{self.kept}-{name}", self.live, name, "run")

    def _copy(self, source: str, target: str, from_run: str, to_run: str) -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        if self.server is not None:
            fields = {"bucket": BUCKET, "source": from_run, "target": to_run}
            data = json.dumps(fields).encode()
            urllib.request.urlopen(f"{self.server}/_fake/copy", data).close()


def attack(places: Places, *, fail_at: int, stop_step: int, again: bool) -> bool:
    """Kills one victim and checks what it left; returns whether it was killed."""
    reader, report = os.pipe()

    def work() -> None:
        log: list[str] = []
        durable, fast = (
            Counted(open_storage(url), fail_at=fail_at, log=log)
            for url in (places.durable, places.fast)
        )
        watch_data_files(fast)

        def tell(step: int) -> None:
            os.write(report, bytes([step]))

        train(durable, fast, stop_step=stop_step, report=tell, again=again)

    victim = fork(work)
    os.close(report)
    with os.fdopen(reader, "rb", buffering=0) as reports:
        code = exit_code(victim)
        reported = reports.read() or b""
    if code not in (0, -signal.SIGKILL):
        raise AssertionError(f"the victim ended with {code}")
    places.keep("after")
    saved = max((step for step in reported if step < DURABLE), default=FIRST_STEP)
    durable = max((step - DURABLE for step in reported if step > DURABLE), default=2)
    for fast, at_least in ((places.fast, saved), (places.fresh, durable)):
        places.reset("after")
        survivor = fork(
            lambda fast=fast, at_least=at_least: check_survivor(
                places.durable, fast, at_least=at_least, stop_step=stop_step + 2
            )
        )
        if exit_code(survivor) != 0:
            raise AssertionError(f"wrong after {fail_at=}, with {fast}")
    return code != 0


def prepare(places: Places) -> None:
    """Makes the run that every victim continues."""
    os.makedirs(places.live)
    nothing = fork(
        lambda: train(
            places.durable, places.fast, stop_step=FIRST_STEP, report=lambda step: None
        )
    )
    if exit_code(nothing) != 0:
        raise AssertionError("the first checkpoints could not be saved")
    places.keep("before")


@contextlib.contextmanager
def open_places(settings: argparse.Namespace) -> Iterator[Places]:
    """Yields the places, and serves them."""
    if settings.scheme == "local":
        yield Places(settings.directory, None)
        return
    command = [sys.executable, "-m", "helpers.fake_gcs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield Places(settings.directory, server.stdout.readline().strip())
        finally:
            server.kill()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--scheme", choices=["local", "gs"], required=True)
    parser.add_argument("--saves", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    settings = parser.parse_args()
    # On a busy machine a writer of low priority would hardly get its turn.
    writer._NICENESS = 0
    num_killed = 0
    with open_places(settings) as places:
        prepare(places)
        for number in range(settings.first, NEVER, settings.stride):
            places.reset("before")
            stop_step = FIRST_STEP + settings.saves
            is_killed = attack(
                places, fail_at=number, stop_step=stop_step, again=settings.again
            )
            if not is_killed:
                break
            num_killed += 1
    print(json.dumps({"killed": num_killed}))


if __name__ == "__main__":
    main()
