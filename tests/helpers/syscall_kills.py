"""Run as a program: kills saving processes at each system call that touches a disk.

    python -m helpers.syscall_kills DIRECTORY --kind loop --action signal=KILL
    python -m helpers.syscall_kills DIRECTORY --kind tiers --action error=EIO --every 3

A victim continues a run that has two checkpoints, saves once more and ends; strace
makes its N-th call of one kind fail, or kills it there, for each N that a save comes
to. What is left is continued by another process, and must be exact, with every
checkpoint that was reported; one in `--twice` victims is killed a second time before.
TensorFlow is imported once; each victim is a fork that has run no operation before.

A storage that fails on purpose knows only its own operations: this sees all that
Python, TensorFlow and we ask the kernel for. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from helpers.kill_matrix import exit_code, fork
from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer, FastTier, SaveOptions

CALLS = (
    *("openat", "mkdir", "mkdirat", "write", "pwrite64", "fsync", "ftruncate"),
    *("link", "linkat", "rename", "renameat", "renameat2", "unlink", "unlinkat"),
    *("rmdir", "flock", "fcntl", "newfstatat"),
)
BEGIN = 2
TOLD = 3
KEEP_LAST = 2
_CALL = re.compile(r"^(\d+) +(\w+)\(")
_WAIT_SECS = 60.0


class Run:
    """A run directory, and a fast tier if there is to be one."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.directory = directory
        self._has_fast = kind == "tiers"

    def checkpointer(self) -> Checkpointer:
        fast = None
        if self._has_fast:
            fast = FastTier(self.directory / "fast", every_steps=1)
        return Checkpointer(
            str(self.directory / "run"),
            every_steps=1,
            keep_last=KEEP_LAST,
            options=SaveOptions(fast_tier=fast),
        )

    def train(self, to_step: int, *, at_least: int = 0) -> None:
        """Continues exactly; at least from a step that was reported as saved."""
        state = small_state()
        with self.checkpointer() as checkpointer:
            checkpointer.restore_or_initialize(state)
            if state.step < at_least:
                raise AssertionError(f"step {at_least} was saved, {state.step} is left")
            assert_at_step(state, state.step)
            while state.step < to_step:
                advance(state)
                checkpointer.maybe_save(state)
                checkpointer.wait()

    def check(self, *, at_least: int, to_step: int) -> None:
        """Continues, and looks at what is there in the end."""
        self.train(to_step, at_least=at_least)
        state = small_state()
        Checkpointer(str(self.directory / "run")).restore(state)
        assert_at_step(state, to_step)
        left = list(self.directory.rglob(".partial-*"))
        if left:
            raise AssertionError(f"left behind: {left}")


def victim(run: Run, may_begin: int, report: int) -> None:
    """Waits for its tracer; saves one step; reports what it has saved, or an error."""
    os.read(may_begin, 1)
    try:
        run.train(BEGIN + 1)
        os.write(report, b"saved")
    except OSError as error:  # Injected: that it is told is what is looked at.
        os.write(report, f"{type(error).__name__}: {error}".encode())
        os._exit(TOLD)


def trace(run: Run, options: list[str]) -> tuple[int, str]:
    """Runs a victim under strace; returns its exit code and what it has reported."""
    may_begin, begin = os.pipe()
    report, reported = os.pipe()
    child = fork(lambda: _quiet(lambda: victim(run, may_begin, reported)))
    tracer = subprocess.Popen(["strace", "-f", "-qq", *options, "-p", str(child)])
    try:
        ends = time.monotonic() + _WAIT_SECS
        while not _is_traced(child):
            if tracer.poll() is not None or time.monotonic() > ends:
                os.kill(child, 9)
                raise RuntimeError("strace can't look at a process here")
            time.sleep(0.001)
        os.write(begin, b"x")
        code = exit_code(child)
    finally:
        tracer.wait(_WAIT_SECS)
        os.close(reported)
        text = os.read(report, 65536).decode()
        for descriptor in (report, may_begin, begin):
            os.close(descriptor)
    return code, text


def _quiet(work: Callable[[], None]) -> None:
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    work()


def _is_traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return "TracerPid:\t0\n" not in status


def count_calls(run: Run, calls: list[str]) -> dict[str, int]:
    """Returns how often the busiest thread makes each call: strace counts by thread."""
    log = run.directory / "trace"
    code, text = trace(run, ["-e", f"trace={','.join(calls)}", "-o", str(log)])
    if code or text != "saved":
        raise AssertionError(f"undisturbed, a save ended with {code}: {text}")
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    for line in log.read_text(errors="replace").splitlines():
        if match := _CALL.match(line):
            found[match[1], match[2]] += 1
    most: dict[str, int] = {}
    for (_, call), count in found.items():
        most[call] = max(count, most.get(call, 0))
    return most


def trials(most: dict[str, int], every: int) -> Iterator[tuple[str, int]]:
    """Yields what to disturb: a call and which of them."""
    for call, count in sorted(most.items()):
        yield from ((call, number) for number in range(1, count + 1, every))


def disturb(run: Run, call: str, number: int, action: str) -> tuple[int, str]:
    """Runs a victim of which one call fails, or that ends there."""
    inject = f"inject={call}:{action}:when={number}"
    return trace(run, ["-e", f"trace={call}", "-e", inject, "-o", os.devnull])


class Attack:
    """All victims of one kind of disturbance, and what became of them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._template = args.directory / "template"
        self._work = args.directory / "work"
        self.counts: collections.Counter[str] = collections.Counter()
        self.said: set[str] = set()
        self.unharmed: list[str] = []

    def prepare(self) -> None:
        """Makes the run from which all victims go on."""
        self._args.directory.mkdir(parents=True)
        run = Run(self._work, self._args.kind)
        _check(fork(lambda: run.train(BEGIN)), "the first start")
        self._work.rename(self._template)

    def fresh(self) -> Run:
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._template, self._work)
        return Run(self._work, self._args.kind)

    def disturb(self, index: int, call: str, number: int) -> None:
        """Lets one victim save, and looks at what is left."""
        run, action = self.fresh(), self._args.action
        code, text = disturb(run, call, number, action)
        ended = {-9: "killed", 0: "unharmed", TOLD: "told"}.get(code, f"ended {code}")
        self.counts[ended] += 1
        if ended == "unharmed" and action.startswith("error"):
            self.unharmed.append(f"{call} {number}")
        if code == TOLD:
            self.said.add(re.sub(r"/\S*/|[0-9a-f]{32}", "", text)[:160])
        if code == -9 and index % self._args.twice == 0:
            again, _ = disturb(run, call, number, action)
            self.counts["killed twice"] += again == -9
        at_least = BEGIN + 1 if text == "saved" else BEGIN
        child = fork(lambda: run.check(at_least=at_least, to_step=BEGIN + 2))
        _check(child, f"{call} {number}: {action}: {ended} {text}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kind", choices=("loop", "tiers"), default="loop")
    parser.add_argument("--action", default="signal=KILL")
    parser.add_argument("--calls", default=",".join(CALLS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--twice", type=int, default=5)
    args = parser.parse_args()
    attack = Attack(args)
    attack.prepare()
    most = count_calls(attack.fresh(), args.calls.split(","))
    for index, (call, number) in enumerate(trials(most, args.every)):
        attack.disturb(index, call, number)
    found = {"calls": most, "counts": attack.counts, "said": sorted(attack.said)}
    print(json.dumps({**found, "unharmed": attack.unharmed}))
    return 0


def _check(child: int, what: str) -> None:
    code = exit_code(child)
    if code:
        raise AssertionError(f"{what}: what is left is not whole ({code})")


if __name__ == "__main__":
    sys.exit(main())
