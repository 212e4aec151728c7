"""Thousands of saves, kills and restores: is anything lost, and does anything grow?

    python benchmarks/soak.py --cycles 2000 --saves 2000
    python benchmarks/soak.py --cycles 100 --saves 300 --seed 7

Two parts, of a small state whose value at each step is known:

1. Cycles. Each is a process of its own, forked from this one, which has imported
   TensorFlow and run no operation. It restores, compares every value bit for bit with
   a run that was never killed, checks that no step is missing whose save was committed,
   then trains, saves after each step, and is killed by SIGKILL: by lot before one of
   its storage operations or at some moment, saving beside the training or not. Every
   `--cycles-per-run` cycles begin a new run, every other of which is kept as on an
   object store (there before operations only: a directory that stands for the store
   can hold half a file, which no store does).
2. Endurance. One process saves and restores `--saves` times, with a new `Checkpointer`
   now and then. Its memory, threads and file descriptors are counted every 100 times;
   after a tenth of the saves they may grow no more by the bounds below.

The exit code is 1 if anything was lost or has grown. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import json
import logging
import os
import random
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers.faulty_storage import FaultyStorage, watch_data_files
from helpers.kill_matrix import NEVER, exit_code, fork
from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer, SaveOptions, writer
from resumable_tf.checkpoint.integrity import verify_run
from resumable_tf.storage import open_storage

KEEP_LAST = 2
STEPS_PER_CYCLE, OPERATIONS_PER_CYCLE, MAX_SECS = 6, 140, 1.5
MAX_RSS_GROWTH_BYTES = 32 * 2**20
"""Of a process of 500 MB; 2,000 leaked snapshots would be more."""
MAX_THREAD_GROWTH, MAX_FILE_GROWTH = 0, 0
STEP = struct.Struct("<i")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to happen to one victim.

    Attributes:
        is_async: Whether it saves beside the training.
        fail_at: The storage operation before which it is killed, or `NEVER`.
        kill_after_secs: When it is killed, counted from its restore; None does not.
    """

    is_async: bool
    fail_at: int
    kill_after_secs: float | None


def draw(lot: random.Random, *, is_object_store: bool) -> Plan:
    """Returns a victim's fate."""
    is_async = lot.random() < 0.5
    if lot.random() < 0.5 or is_object_store:
        return Plan(is_async, lot.randrange(OPERATIONS_PER_CYCLE), None)
    return Plan(is_async, NEVER, lot.uniform(0.0, MAX_SECS))


def train(url: str, plan: Plan, *, at_least: int, report: int) -> None:
    """Restores, compares and trains; reports each committed step. The victim's side."""
    state = small_state(size=200)
    storage = FaultyStorage(open_storage(url), fail_at=plan.fail_at, mode="kill")
    watch_data_files(storage)
    options = SaveOptions(asynchronous=plan.is_async)
    with Checkpointer(
        storage, keep_last=KEEP_LAST, config={"seed": 1}, options=options
    ) as checkpointer:
        checkpointer.restore_or_initialize(state)
        if state.step < at_least:
            raise AssertionError(f"step {at_least} was saved, {state.step} is there")
        assert_at_step(state, state.step)
        os.write(report, STEP.pack(state.step))
        for _ in range(STEPS_PER_CYCLE):
            advance(state)
            handle = checkpointer.save(state)
            if not plan.is_async:
                os.write(report, STEP.pack(handle.result().step))
            elif checkpointer.committed_step is not None:
                os.write(report, STEP.pack(checkpointer.committed_step))


def cycle(url: str, plan: Plan, *, at_least: int) -> tuple[int, int]:
    """Runs one victim.

    Returns:
        The newest step that was committed, and the victim's exit code: 0 if it has
        outlived its plan, 1 if it has found something lost or wrong.
    """
    reader, report = os.pipe()
    victim = fork(lambda: train(url, plan, at_least=at_least, report=report))
    os.close(report)
    with os.fdopen(reader, "rb", buffering=0) as reports:
        data = reports.read(STEP.size) or b""
        if data and plan.kill_after_secs is not None:
            begin = time.monotonic()
            while (left := begin + plan.kill_after_secs - time.monotonic()) > 0:
                if select.select([reports], [], [], left)[0]:
                    if not (more := reports.read(STEP.size)):
                        break  # It has ended before its time.
                    data += more
            os.kill(victim, signal.SIGKILL)
        code = exit_code(victim)
        data += reports.read() or b""
    steps = [step for (step,) in STEP.iter_unpack(data)]
    return max([at_least, *steps]), code


def finish(url: str, *, at_least: int) -> None:
    """Lets a run end by itself and looks at all that is left of it."""
    report = os.open(os.devnull, os.O_WRONLY)
    train(url, Plan(False, NEVER, None), at_least=at_least, report=report)
    storage = open_storage(url)
    reports = list(verify_run(storage))
    if len(reports) != KEEP_LAST or not all(report.is_good for report in reports):
        raise AssertionError(f"the run was left with {reports}")
    num_files = len(storage.list(""))
    if num_files != 3 * KEEP_LAST + 2:  # The list of TensorFlow, and run.json.
        raise AssertionError(f"files are left over: {storage.list('')}")


def run_cycles(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Part 1; returns its counts. A victim that found something wrong has said what."""
    lot = random.Random(args.seed)
    counts = {"cycles": 0, "killed": 0, "committed": 0, "runs": 0, "wrong": 0}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        while counts["cycles"] < args.cycles:
            number, step = counts["runs"], 0
            path, is_store = f"{directory}/run-{number}", number % 2 == 1
            # fsspec makes no directories, which no store has.
            os.makedirs(f"{path}/checkpoints")
            url = f"local://{path}" if is_store else path
            for _ in range(min(args.cycles_per_run, args.cycles - counts["cycles"])):
                plan = draw(lot, is_object_store=is_store)
                before = step
                step, code = cycle(url, plan, at_least=before)
                counts["cycles"] += 1
                counts["killed"] += code == -signal.SIGKILL
                if code not in (0, -signal.SIGKILL):
                    counts["wrong"] += 1
                    console.print(f"{url} from {before}: {plan} ended with {code}")
            counts["committed"] += step
            counts["runs"] += 1
            if exit_code(fork(functools.partial(finish, url, at_least=step))) != 0:
                counts["wrong"] += 1
                console.print(f"{url} could not be finished from {step}")
            shutil.rmtree(path)
            secs = (time.monotonic() - begin) / counts["cycles"]
            console.print(f"{counts}, {secs:.2f} s a cycle")
    return {**counts, "secs_per_cycle": (time.monotonic() - begin) / counts["cycles"]}


def measure() -> dict[str, int]:
    """Returns what this process uses."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_bytes": resident * os.sysconf("SC_PAGE_SIZE"),
        "threads": len(os.listdir("/proc/self/task")),
        # Without the one that lists them.
        "files": len(os.listdir("/proc/self/fd")) - 1,
    }


def endure(num_saves: int, every: int, output: str) -> None:
    """Part 2: saves and restores in one process, and writes the measurements."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        checkpointer, state = None, small_state(size=100_000)
        for number in range(1, num_saves + 1):
            if checkpointer is None:
                checkpointer = Checkpointer(directory, keep_last=KEEP_LAST)
                checkpointer.restore_or_initialize(state)
            advance(state)
            checkpointer.save(state)
            checkpointer.wait()
            checkpointer.restore(state)
            if state.step != number:
                raise AssertionError(f"restored {state.step}, saved {number}")
            if number % 10 == 0:
                checkpointer.close()
                checkpointer, state = None, small_state(size=100_000)
            if number % every == 0:
                rows.append({"saves": number, **measure()})
    Path(output).write_text(json.dumps(rows))


def growth(rows: list[dict[str, int]]) -> dict[str, int]:
    """Returns what has grown since a tenth of the saves."""
    first, last = rows[len(rows) // 10], rows[-1]
    return {name: last[name] - first[name] for name in last if name != "saves"}


def run_endurance(args: argparse.Namespace) -> list[dict[str, int]]:
    """Runs part 2 in a process of its own; returns its measurements."""
    with tempfile.TemporaryDirectory() as directory:
        output = f"{directory}/rows.json"
        every = max(1, min(100, args.saves // 10))
        if exit_code(fork(lambda: endure(args.saves, every, output))) != 0:
            raise AssertionError("the long-lived process failed")
        rows: list[dict[str, int]] = json.loads(Path(output).read_text())
    return rows


def show(rows: list[dict[str, int]], console: Console) -> None:
    table = Table("saves and restores", "RSS, MB", "threads", "files")
    for row in rows:
        rss = f"{row['rss_bytes'] / 1e6:.1f}"
        table.add_row(str(row["saves"]), rss, str(row["threads"]), str(row["files"]))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=2000)
    parser.add_argument("--cycles-per-run", type=int, default=40)
    parser.add_argument("--saves", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    # On a busy machine a writer of low priority would hardly get its turn.
    writer._NICENESS = 0
    console = Console(width=100)
    counts = run_cycles(args, console)
    rows = run_endurance(args)
    show(rows, console)
    grown = growth(rows)
    bounds = (MAX_RSS_GROWTH_BYTES, MAX_THREAD_GROWTH, MAX_FILE_GROWTH)
    is_bounded = all(x <= y for x, y in zip(grown.values(), bounds, strict=True))
    print(json.dumps({**counts, "growth": grown, "is_bounded": is_bounded}))
    sys.exit(0 if is_bounded and not counts["wrong"] else 1)


if __name__ == "__main__":
    main()
