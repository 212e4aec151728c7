"""How `save_cost.py` measures one peer, in the peer's own process.

    if __name__ == "__main__":
        run(lambda plan: MyPeer(plan))

`Peer` is what a peer has to offer. Needs NumPy and the standard library only, so that
a peer may run on another interpreter.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from save_cost_plan import Plan, Window, read_plan

CHUNK_BYTES = 64 << 20
NUM_WARM_UP_STEPS = 3
LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.98, 1e-9
DECAY = 0.01
"""The gradient is this share of the parameter, plus what the products give."""


class Trains(Protocol):
    """A training that can be saved."""

    def step(self) -> None:
        """Trains one step to its end."""

    def save(self) -> Callable[[], object]:
        """Saves; returns what waits until the checkpoint is whole."""


class Peer(Trains, Protocol):
    """One way to save, with a training to be saved.

    Attributes:
        version: What runs, for the report.
    """

    version: str

    def restore(self) -> float:
        """Restores the newest checkpoint; returns the seconds it took."""

    def arrays(self) -> Iterator[np.ndarray]:
        """Yields the parameters and both moments."""

    def close(self) -> None:
        """Ends what still runs."""


class CheckError(RuntimeError):
    """A peer does not do what is measured."""


def initial_values(plan: Plan) -> Iterator[np.ndarray]:
    """Yields the parameters at the start, the same for every peer."""
    random = np.random.default_rng(0)
    for shape in plan.shapes:
        yield 0.02 * random.standard_normal(shape, dtype=np.float32)


def operands(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a step multiplies: `x = tanh(x @ w)`, over and over.

    The factor keeps the values from dying out, which would make products of
    denormal numbers.
    """
    random = np.random.default_rng(1)
    shape = (plan.width, plan.width)
    x, w = (random.standard_normal(shape, dtype=np.float32) for _ in range(2))
    return x, w * np.float32(1.5 / plan.width**0.5)


def measure(peer: Peer, plan: Plan) -> dict[str, Any]:
    """Returns all figures of one peer; its files stay.

    The first save of a process is told apart from a later one, since much is traced
    and allocated at the first. It is also the one that is checked: training goes on
    while it is written, and it must restore what was there when it was asked for.
    """
    for _ in range(NUM_WARM_UP_STEPS):
        peer.step()
    first = save_in_training(peer, plan, note=lambda: digest(peer))
    changed = digest(peer)
    fsync_all(plan.directory, drops=True)
    restore_secs = peer.restore()
    restored, saved = digest(peer), first.pop("noted")
    if restored != saved or changed == saved:
        raise CheckError(
            f"the state was {saved} when it was saved, {changed} some steps later, and "
            f"{restored} when restored: the first and last must be equal, the second "
            "another"
        )
    for _ in range(NUM_WARM_UP_STEPS):
        peer.step()
    later = save_in_training(peer, plan)
    paused = save_paused(peer, plan)
    return {
        "version": peer.version,
        "first": first,
        "later": later,
        "paused": paused,
        "restore_secs": restore_secs,
    }


def save_in_training(
    peer: Trains, window: Window, *, note: Callable[[], Any] = lambda: None
) -> dict[str, Any]:
    """Saves once, between steps that are all timed.

    The steps after it are timed until the checkpoint is whole, and at least
    `window.num_steps` of them. What a step takes alone is the mean of two medians, of
    the steps before it all and of those after it all: so a machine that steadily
    becomes slower or faster does not count.

    Args:
        peer: The training; warmed up.
        window: How many steps.
        note: Called right before the save, untimed; what it returns is kept.
    """
    before, peak_before = steps_alone(peer, window)
    noted = note()
    settle()
    reset_peak_memory()
    begun = time.perf_counter()
    commit = Commit(peer.save())
    blocked_secs = time.perf_counter() - begun
    beside: list[float] = []
    while len(beside) < window.num_steps or not commit.is_done():
        beside.append(seconds(peer.step))
    commit_secs = commit.result() - begun
    extra_mb = peak_memory_mb() - peak_before
    fsync_left_secs = seconds(lambda: fsync_all(window.directory))
    after, _ = steps_alone(peer, window)
    medians = statistics.median(before), statistics.median(after)
    step_secs = statistics.mean(medians)
    slower = [secs - step_secs for secs in beside]
    return {
        "noted": noted,
        "step_secs": step_secs,
        "drift": medians[1] / medians[0] - 1,
        "steps_secs": {"before": before, "beside": beside, "after": after},
        "blocked_secs": blocked_secs,
        "slowdown_5_secs": sum(slower[: window.num_steps]),
        "slowdown_secs": sum(slower),
        "total_secs": blocked_secs + sum(slower),
        "commit_secs": commit_secs,
        "extra_mb": extra_mb,
        "fsync_left_secs": fsync_left_secs,
    }


def steps_alone(peer: Trains, window: Window) -> tuple[list[float], float]:
    """Returns the seconds of steps without a save, and the peak memory of these."""
    settle()
    reset_peak_memory()
    secs = [seconds(peer.step) for _ in range(window.num_steps_alone)]
    return secs, peak_memory_mb()


def save_paused(peer: Peer, plan: Plan) -> dict[str, Any]:
    """Saves while nothing else runs, between two plain writes of as many bytes."""
    plain = [plain_write_secs(plan)]
    settle()
    begun = time.perf_counter()
    peer.save()()
    commit_secs = time.perf_counter() - begun
    fsync_all(plan.directory)
    durable_secs = time.perf_counter() - begun
    plain.append(plain_write_secs(plan))
    return {
        "commit_secs": commit_secs,
        "durable_secs": durable_secs,
        "plain_write_secs": statistics.mean(plain),
    }


class Commit:
    """Waits in a thread until a checkpoint is whole, and notes when that was."""

    def __init__(self, wait: Callable[[], object]) -> None:
        """Begins to wait."""
        self._wait = wait
        # Written by the thread before it ends, read after.
        self._ended = 0.0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def is_done(self) -> bool:
        """Returns whether the checkpoint is whole, or has failed."""
        return not self._thread.is_alive()

    def result(self) -> float:
        """Returns when it was, by `time.perf_counter`; raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._ended

    def _run(self) -> None:
        try:
            self._wait()
        except BaseException as error:  # noqa: BLE001  handed back by result()
            self._error = error
        self._ended = time.perf_counter()


def settle() -> None:
    """Lets no earlier work count: neither garbage nor what the disk has yet to do."""
    gc.collect()
    os.sync()


def seconds(call: Callable[[], object]) -> float:
    """Returns how long a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def digest(peer: Peer) -> int:
    """Returns a checksum of the whole state."""
    checksum = 0
    for array in peer.arrays():
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return checksum


def fsync_all(directory: str, *, drops: bool = False) -> None:
    """Makes every file below durable, and the directories that name them.

    Args:
        directory: Where.
        drops: Whether the files are to be read from the disk next time, as on a new
            machine.
    """
    for folder, _, names in os.walk(directory):
        for path in [*(os.path.join(folder, name) for name in names), folder]:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                if drops and path != folder:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def plain_write_secs(plan: Plan) -> float:
    """Returns the seconds to write and fsync one file of as many bytes."""
    chunk = memoryview(os.urandom(min(CHUNK_BYTES, plan.state_bytes)))
    path = os.path.join(os.path.dirname(plan.directory), "plain-write")
    settle()
    begun = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        left = plan.state_bytes
        while left:
            left -= file.write(chunk[:left])
        os.fsync(file.fileno())
    secs = time.perf_counter() - begun
    os.remove(path)
    return secs


def reset_peak_memory() -> None:
    """Lets the kernel count the process' peak memory from here on (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb() -> float:
    """Returns the largest resident size since `reset_peak_memory`, in megabytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise CheckError("/proc/self/status has no VmHWM; this needs Linux")


def run(make_peer: Callable[[Plan], Peer]) -> None:
    """Measures as the command line's plan says and prints the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plan", required=True)
    args, _ = parser.parse_known_args()
    plan = read_plan(args.plan)
    os.makedirs(plan.directory)
    peer = make_peer(plan)
    found = measure(peer, plan)
    peer.close()
    print(json.dumps(found), flush=True)
