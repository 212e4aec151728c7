"""Run as a program: kills saving processes at every operation, and looks what is left.

    python -m helpers.kill_matrix DIRECTORY --saves 1 --mode async --scheme local
    python -m helpers.kill_matrix DIRECTORY --timed 8 --mode sync --scheme object
    python -m helpers.kill_matrix DIRECTORY --scene damaged --mode sync --scheme gs

TensorFlow is imported once; each victim is a fork that has run no operation before.
Prints one line of JSON: how many victims were killed. Scheme "object" treats a local
directory as an object store: bundles are uploaded. Scheme "gs" uses gcsfs and a fake
Google Cloud Storage, which is a process of its own and outlives the victims.

Scenes, from which the victims go on: "save", two checkpoints; "new", nothing at all;
"damaged", a newest checkpoint that has to go into quarantine, TensorFlow's list torn,
and the lease of a dead process; "replaced", the older of two checkpoints, so that the
newer one is superseded; "again", the newer of two, which is saved a second time first.
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
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator

from helpers.fake_gcs import BUCKET
from helpers.faulty_storage import FaultyStorage, watch_data_files
from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer, SaveOptions, writer
from resumable_tf.storage import open_storage

KEEP_LAST = 2
STARTS = {"save": 2, "new": 0, "damaged": 2, "replaced": 1, "again": 2}
"""The step that the victims of each scene go on from."""
CONFIG = {"preset": "tiny", "seed": 1}
DAMAGED = b"damaged"
NEVER = 10**9
STARTED = bytes([0])


def run_victim(
    storage: FaultyStorage, *, settings: argparse.Namespace, stop_step: int, report: int
) -> None:
    """Trains and saves after each step; reports each save that has returned."""
    watch_data_files(storage)
    size, asynchronous = settings.size, settings.mode == "async"
    state = small_state(size=size)
    options = SaveOptions(asynchronous=asynchronous)
    with Checkpointer(
        storage, keep_last=KEEP_LAST, config=CONFIG, options=options
    ) as checkpointer:
        if settings.scene == "replaced":
            checkpointer.restore(state, STARTS["replaced"])
        else:
            checkpointer.restore_or_initialize(state)
        os.write(report, STARTED)
        if settings.scene == "again":
            checkpointer.save(state, metrics={"again": 1.0}).result()
        while state.step < stop_step:
            advance(state)
            handle = checkpointer.save(state)
            if not asynchronous:
                handle.result()
                os.write(report, bytes([state.step]))
            elif state.step > STARTS[settings.scene] + 1:
                # save() has waited for the one before.
                os.write(report, bytes([state.step - 1]))
        # The last one is committed too, and must survive what comes after: the end.
        checkpointer.wait()
        os.write(report, bytes([state.step]))


def check_survivors(
    url: str, settings: argparse.Namespace, *, at_least: int, stop_step: int
) -> None:
    """Restores in a fresh process, exactly; then finishes the run and looks around."""
    stop_step += 1
    size = settings.size
    state = small_state(size=size)
    with Checkpointer(url, keep_last=KEEP_LAST, config=CONFIG) as checkpointer:
        checkpointer.restore_or_initialize(state)
        if state.step < at_least:
            raise AssertionError(f"step {at_least} was saved, {state.step} is there")
        assert_at_step(state, state.step)
        while state.step < stop_step:
            advance(state)
            checkpointer.save(state)
    last = small_state(size=size)
    Checkpointer(url).restore(last)
    assert_at_step(last, stop_step)
    check_files(url, settings.scene, stop_step)


def check_files(url: str, scene: str, stop_step: int) -> None:
    """Checks that nothing is left over, and what was damaged still there."""
    storage = open_storage(url)
    names = storage.list("checkpoints")
    expected = ["checkpoint"]
    for step in range(max(1, stop_step + 1 - KEEP_LAST), stop_step + 1):
        expected += files_of(step)
    if scene == "damaged":
        kept = [f"quarantine/ckpt-3.1/{name}" for name in files_of(3)]
        expected += kept
        if storage.read_bytes(f"checkpoints/{kept[1]}") != DAMAGED:
            raise AssertionError("the damaged file was changed")
    if scene == "replaced":  # A kill right after the new one may leave the old one.
        names = [name for name in names if "/superseded/" not in name]
    if names != [f"checkpoints/{name}" for name in expected]:
        raise AssertionError(f"the directory holds {names}")
    if storage.list("") != [*names, "run.json"] and scene != "replaced":
        raise AssertionError(f"the run directory holds {storage.list('')}")


def files_of(step: int) -> list[str]:
    """Returns the names of a checkpoint's files."""
    ends = ("data-00000-of-00001", "index", "manifest.json")
    return [f"ckpt-{step}.{end}" for end in ends]


def fork(work: Callable[[], None]) -> int:
    """Runs `work` in a child process; returns its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001  a fork must never return from here
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    return child


def exit_code(child: int) -> int:
    """Waits for a child; returns its exit code, or minus the signal's number."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def attack(
    url: str,
    settings: argparse.Namespace,
    *,
    fail_at: int = NEVER,
    kill_after_secs: float | None = None,
) -> bool:
    """Kills one victim and checks what it left; returns whether it was killed."""
    reader, report = os.pipe()
    start = STARTS[settings.scene]
    stop_step = start + settings.saves
    storage = FaultyStorage(open_storage(url), fail_at=fail_at, mode="kill")
    victim = fork(
        lambda: run_victim(
            storage, settings=settings, stop_step=stop_step, report=report
        )
    )
    os.close(report)
    with os.fdopen(reader, "rb", buffering=0) as reports:
        if kill_after_secs is not None:
            reports.read(1)
            time.sleep(kill_after_secs)
            os.kill(victim, signal.SIGKILL)
        code = exit_code(victim)
        at_least = max(reports.read(), default=0) or start
    if code not in (0, -signal.SIGKILL):
        raise AssertionError(f"the victim ended with {code}")
    survivor = fork(
        lambda: check_survivors(url, settings, at_least=at_least, stop_step=stop_step)
    )
    if exit_code(survivor) != 0:
        raise AssertionError(f"{url}: wrong after {fail_at=}, {kill_after_secs=}")
    return code != 0


def prepare(url: str, settings: argparse.Namespace) -> None:
    """Makes the run that every victim continues, with no checkpoint to spare."""

    def work() -> None:
        state = small_state(size=settings.size)
        checkpointer = Checkpointer(url, keep_last=KEEP_LAST, config=CONFIG)
        checkpointer.restore_or_initialize(state)
        for _ in range(3 if settings.scene == "damaged" else 2):
            advance(state)
            checkpointer.save(state)
        checkpointer.wait()
        if settings.scene == "damaged":
            storage = open_storage(url)
            storage.write_bytes("checkpoints/ckpt-3.index", DAMAGED)
            storage.write_bytes("checkpoints/checkpoint", b"\xff")
            return  # The lease is left to this process, which ends.
        checkpointer.close()

    if settings.scene != "new" and exit_code(fork(work)) != 0:
        raise AssertionError("the first checkpoints could not be saved")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--saves", type=int, default=1)
    parser.add_argument("--size", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="of the operations")
    parser.add_argument("--every", type=int, default=1, help="leave out operations")
    parser.add_argument("--timed", type=int, default=0)
    parser.add_argument("--scene", choices=list(STARTS), default="save")
    parser.add_argument("--mode", choices=["sync", "async"], required=True)
    parser.add_argument("--scheme", choices=["local", "object", "gs"], required=True)
    return parser.parse_args()


class Directory:
    """Runs on a local disk, each a copy of the first."""

    def __init__(self, directory: str, scheme: str) -> None:
        self.directory = directory
        self.prefix = "" if scheme == "local" else "local://"

    @property
    def base(self) -> str:
        return os.path.join(self.directory, "base")

    @contextlib.contextmanager
    def copy(self, number: int) -> Iterator[str]:
        path = os.path.join(self.directory, f"run-{number}")
        os.makedirs(self.base, exist_ok=True)
        shutil.copytree(self.base, path)
        yield self.prefix + path
        shutil.rmtree(path)


class Bucket:
    """Runs on a fake Google Cloud Storage; this process itself never uses gcsfs.

    It can't be used in a fork of a process that has used it.
    """

    base = f"gs://{BUCKET}/base"

    def __init__(self, server: str) -> None:
        self.server = server
        os.environ["STORAGE_EMULATOR_HOST"] = server
        os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

    @contextlib.contextmanager
    def copy(self, number: int) -> Iterator[str]:
        fields = {"bucket": BUCKET, "source": "base", "target": "run"}
        data = json.dumps(fields).encode()
        urllib.request.urlopen(f"{self.server}/_fake/copy", data).close()
        yield f"gs://{BUCKET}/run"


@contextlib.contextmanager
def open_place(settings: argparse.Namespace) -> Iterator[Directory | Bucket]:
    """Yields where the runs are."""
    if settings.scheme != "gs":
        yield Directory(settings.directory, settings.scheme)
        return
    command = [sys.executable, "-m", "helpers.fake_gcs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield Bucket(server.stdout.readline().strip())
        finally:
            server.kill()


def main() -> None:
    settings = parse_arguments()
    # On a busy machine a writer of low priority would hardly get its turn.
    writer._NICENESS = 0
    num_killed = 0
    with open_place(settings) as place:
        prepare(place.base, settings)
        for number in range(settings.first, settings.timed or NEVER, settings.every):
            with place.copy(number) as url:
                if settings.timed:
                    delay = 0.5 * number / settings.timed
                    is_killed = attack(url, settings, kill_after_secs=delay)
                else:
                    is_killed = attack(url, settings, fail_at=number)
            num_killed += is_killed
            if not is_killed and not settings.timed:
                break
    print(json.dumps({"killed": num_killed}))


if __name__ == "__main__":
    main()
