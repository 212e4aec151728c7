"""Damages every file of a run in every way, and looks what the next start makes of it.

    counts = Matrix(directory).run(level="few")
    python -m helpers.corruption_matrix DIRECTORY --level all

A case is one damage to one file. The next start restores the newest checkpoint that is
whole, exactly, or refuses with an error of this project; another outcome ends the run
of the matrix. Prints how many cases ended how, by class of file.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import tensorflow as tf
from helpers.damages import Damage, damages_of
from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer, FastTier, SaveOptions
from resumable_tf.checkpoint.fast_record import read_record, read_run_id
from resumable_tf.checkpoint.holder import Holder
from resumable_tf.checkpoint.integrity import verify_run
from resumable_tf.checkpoint.lease import LeaseRecord
from resumable_tf.checkpoint.manifest import Manifest
from resumable_tf.checkpoint.run_config import read_run
from resumable_tf.errors import ResumableError
from resumable_tf.state import TrainState
from resumable_tf.storage import open_storage

STEPS = (1, 2, 3)
KEEP_LAST = 9
CHECKPOINT_CLASSES = ("index", "data", "manifest")
FAST_CLASSES = ("fast.json", "identity.json")
KINDS = (
    *CHECKPOINT_CLASSES,
    *("checkpoint", "run.json", "lease.json"),
    *FAST_CLASSES,
)
"""Classes of files: a bundle's, its commit, TensorFlow's list, settings, lease, and
what ties a fast tier to the run."""
FAST = "fast"
"""The fast tier, in the run directory so that it is copied with it; only starts that
are about FAST_CLASSES use it, since it has sound copies of all checkpoints."""
NUM_SHOWN = 40
GO_ON_EVERY = 8
"""At the level "all", a run with another damaged checkpoint goes on in one of these."""
MAX_START_SECS = 30.0
"""Half of what a start waits for a lease whose holder may be alive."""
CONFIG = {"preset": "tiny", "batch_size": 256, "num_rows": 167500, "rate": 0.0012345}


@dataclasses.dataclass(frozen=True)
class Case:
    """One damage to one file of a run.

    Attributes:
        name: The file, below the run directory.
        damage: What happens to it.
    """

    name: str
    damage: Damage

    @property
    def kind(self) -> str:
        """The class of the file."""
        name = self.name.rsplit("/", 1)[-1]
        if not name.startswith("ckpt-"):
            return name
        return name.split(".", 1)[1].split(".")[0].split("-")[0]

    @property
    def steps(self) -> set[int]:
        """The checkpoints that are damaged."""
        names = [self.name]
        if self.damage.other is not None and self.damage.is_swap:
            names.append(self.damage.other)
        parts = [name.rsplit("ckpt-", 1)[1] for name in names if "ckpt-" in name]
        return {int(part.split(".")[0]) for part in parts}


class Matrix:
    """A sound run, and copies of it that are damaged."""

    def __init__(self, directory: Path, *, size: int = 20) -> None:
        """Trains the run.

        Args:
            directory: An empty one.
            size: Numbers in the state.
        """
        self.base, self.run_dir = directory / "base", directory / "run"
        self.config = CONFIG
        self._size = size
        before = {**CONFIG, "batch_size": 128}
        # A fast tier knows the path of its run: that of the copies.
        self._train(before, 1)
        self._train(CONFIG, 2, allow_batch_size_change=True)
        self.run_dir.rename(self.base)
        (self.base / "lease.json").write_bytes(_lease_of_the_dead())

    def new_state(self) -> TrainState:
        """Returns a state that the run can be restored into."""
        return small_state(size=self._size)

    def run(
        self,
        *,
        level: str,
        kinds: Sequence[str] = KINDS,
        piece: tuple[int, int] = (0, 1),
    ) -> dict[str, dict[str, int]]:
        """Goes through the cases of a level.

        Args:
            level: How many there are.
            kinds: The files that are damaged.
            piece: K of N: each N-th case, from the K-th.

        Returns:
            The outcomes by class of file.
        """
        # No power is cut here: what is written need not reach the disk.
        with mock.patch("os.fsync"):
            return self._run(level, kinds, piece)

    def _run(
        self, level: str, kinds: Sequence[str], piece: tuple[int, int]
    ) -> dict[str, dict[str, int]]:
        counts: dict[str, collections.Counter[str]] = {}
        failures: list[str] = []
        cases = [case for case in self.cases(level) if case.kind in kinds]
        cases = cases[piece[0] :: piece[1]]
        for number, case in enumerate(cases):
            goes_on = level != "all" or number % GO_ON_EVERY == 0
            try:
                outcome = self._check(case, goes_on=goes_on)
            except Exception as error:  # noqa: BLE001  told at the end
                failures.append(f"{case}: {error!r}")
                continue
            counts.setdefault(case.kind, collections.Counter())[outcome] += 1
        if failures:
            lines = "\n".join(failures[:NUM_SHOWN])
            raise AssertionError(f"{len(failures)} cases ended wrongly:\n{lines}")
        return {kind: dict(counter) for kind, counter in counts.items()}

    def cases(self, level: str) -> Iterator[Case]:
        """Yields the cases of a level.

        "few" damages the newest checkpoint only, "some" all of them, "all" the newest
        at every byte.
        """
        files = [path for path in sorted(self.base.rglob("*")) if path.is_file()]
        names = [str(path.relative_to(self.base)) for path in files]
        for name, path in zip(names, files, strict=True):
            others = [other for other in names if _same_class(name, other)]
            if name.startswith(f"{FAST}/") and path.name not in FAST_CLASSES:
                continue
            is_old = "ckpt-" in name and f"ckpt-{max(STEPS)}." not in name
            if is_old and level == "few":
                continue
            depth = "some" if is_old else level
            for damage in damages_of(path.read_bytes(), others, level=depth):
                yield Case(name, damage)

    def _train(self, config: dict[str, Any], num_steps: int, **arguments: bool) -> None:
        state = self.new_state()
        with self._checkpointer(config, has_fast=True) as checkpointer:
            checkpointer.restore_or_initialize(state, **arguments)
            for _ in range(num_steps):
                advance(state)
                checkpointer.save(state)

    def _checkpointer(self, config: dict[str, Any], *, has_fast: bool) -> Checkpointer:
        fast = FastTier(self.run_dir / FAST, keep_last=KEEP_LAST)
        options = SaveOptions(asynchronous=False, fast_tier=fast if has_fast else None)
        return Checkpointer(
            str(self.run_dir), keep_last=KEEP_LAST, config=config, options=options
        )

    def _check(self, case: Case, *, goes_on: bool) -> str:
        shutil.rmtree(self.run_dir, ignore_errors=True)
        shutil.copytree(self.base, self.run_dir)
        case.damage.apply(self.run_dir, case.name)
        is_harmless = self._is_harmless(case)
        self._check_looks(case, is_harmless)
        found = self._contents()
        begin = time.monotonic()
        outcome = self._start(
            goes_on or case.kind not in CHECKPOINT_CLASSES,
            has_fast=case.kind in FAST_CLASSES,
        )
        if time.monotonic() - begin > MAX_START_SECS:
            raise AssertionError("the start has waited for a lease of the dead")
        lost = found - self._contents()
        if lost and case.kind in (*CHECKPOINT_CLASSES, *FAST_CLASSES):
            raise AssertionError(f"{len(lost)} files of checkpoints are lost")
        wanted = self._expected(case, is_harmless)
        if outcome not in wanted:
            raise AssertionError(f"ended with {outcome}, expected {sorted(wanted)}")
        return outcome

    def _contents(self) -> set[bytes]:
        """Returns what is in the files of checkpoints, in quarantine too."""
        paths = self.run_dir.rglob("ckpt-*")
        return {path.read_bytes() for path in paths if path.is_file()}

    def _expected(self, case: Case, is_harmless: bool) -> set[str]:
        """Returns how the next start may end."""
        newest = f"step {max(STEPS)}"
        if is_harmless or case.kind in ("checkpoint", "lease.json"):
            return {newest}
        if case.kind in CHECKPOINT_CLASSES:
            return {f"step {max(set(STEPS) - case.steps)}"}
        if case.damage.removes and case.kind in FAST_CLASSES:
            return {"FastTierMismatchError"}
        if case.damage.removes:
            return {newest}  # The same settings are written anew.
        return {"CheckpointCorruptError", "CheckpointVersionError"}

    def _is_harmless(self, case: Case) -> bool:
        """Tells whether a file says the same as before: other white space in JSON."""
        try:
            if case.kind == "manifest":
                data = (self.run_dir / case.name).read_bytes()
                whole = (self.base / case.name).read_bytes()
                return Manifest.from_bytes(data) == Manifest.from_bytes(whole)
            if case.kind == "run.json":
                damaged, whole = (
                    open_storage(str(self.run_dir)),
                    open_storage(str(self.base)),
                )
                return read_run(damaged) == read_run(whole)
            if case.kind in FAST_CLASSES:
                return self._ties(self.run_dir) == self._ties(self.base)
        except (FileNotFoundError, ResumableError):
            pass
        return False

    def _ties(self, directory: Path) -> tuple[Any, Any]:
        """Returns what the files that tie the fast tier to the run say."""
        run, fast = open_storage(str(directory)), open_storage(str(directory / FAST))
        return read_run_id(run), read_record(fast)

    def _check_looks(self, case: Case, is_harmless: bool) -> None:
        """Checks that those who only look find the damage too."""
        if case.kind not in CHECKPOINT_CLASSES:
            return
        reports = {r.step: r for r in verify_run(open_storage(str(self.run_dir)))}
        for step in STEPS:
            is_good = step in reports and reports[step].is_good
            assert is_good == (is_harmless or step not in case.steps), step
        newest = max(step for step, report in reports.items() if report.is_good)
        state = self.new_state()
        Checkpointer(str(self.run_dir)).restore(state)
        assert_at_step(state, newest)

    def _start(self, goes_on: bool, *, has_fast: bool) -> str:
        """Starts again and, if asked to, trains and saves a step more.

        Returns:
            The step that was restored, or the class of the error.
        """
        state = self.new_state()
        with self._checkpointer(CONFIG, has_fast=has_fast) as checkpointer:
            try:
                checkpointer.restore_or_initialize(state)
            except ResumableError as error:
                assert_at_step(state, 0)
                return type(error).__name__
            restored = state.step
            assert_at_step(state, restored)
            self._check_list(restored)
            if not goes_on:
                return f"step {restored}"
            advance(state)
            checkpointer.save(state)
        last = self.new_state()
        Checkpointer(str(self.run_dir)).restore(last)
        assert_at_step(last, restored + 1)
        self._check_list(restored + 1)
        return f"step {restored}"

    def _check_list(self, newest: int) -> None:
        """Checks that TensorFlow finds the newest checkpoint by itself."""
        directory = self.run_dir / "checkpoints"
        found = tf.train.latest_checkpoint(str(directory))
        assert found == str(directory / f"ckpt-{newest}"), found


def _same_class(name: str, other: str) -> bool:
    """Tells whether two names differ by the step only."""
    head, _, tail = name.partition("ckpt-")
    other_head, _, other_tail = other.partition("ckpt-")
    is_pair = bool(tail and other_tail) and name != other
    return is_pair and (head, tail.partition(".")[2]) == (
        other_head,
        other_tail.partition(".")[2],
    )


def _lease_of_the_dead() -> bytes:
    """Returns the lease that a process killed on this host has left behind."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        me = Holder.this_process(now=time.time())
    holder = dataclasses.replace(me, pid=process.pid, started="12345678")
    record = LeaseRecord("0" * 32, 7, time.time(), 60.0, holder)
    return record.to_bytes()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", type=int, default=20)
    parser.add_argument("--level", choices=["few", "some", "all"], default="few")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    matrix = Matrix(arguments.directory, size=arguments.size)
    print(json.dumps(matrix.run(level=arguments.level, kinds=arguments.kinds)))


if __name__ == "__main__":
    main()
