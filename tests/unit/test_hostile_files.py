"""Whatever stands in the small files of a run: it is read, or refused with a word."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.hostile_files import spoil
from helpers.saved_runs import save_steps
from rich.console import Console

from resumable_tf.checkpoint import FastTier, SaveOptions
from resumable_tf.checkpoint.catalog import Catalog
from resumable_tf.checkpoint.fast_record import read_record, read_run_id
from resumable_tf.checkpoint.holder import Holder
from resumable_tf.checkpoint.integrity import verify_run
from resumable_tf.checkpoint.lease import Lease, LeaseRecord
from resumable_tf.checkpoint.lineage import BatchSizeChanges
from resumable_tf.checkpoint.run_config import read_run
from resumable_tf.cli.inspect import _inspect
from resumable_tf.cli.ls import _list
from resumable_tf.cli.pin import _pin
from resumable_tf.errors import ResumableError
from resumable_tf.storage import LocalStorage

CONFIG = {"preset": "tiny", "batch_size": 8}
MAX_SECS = 5.0
MAX_GROWTH_KIB = 200 * 1024
_opened: list[str] | None = None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_listen)


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Yields the absolute paths that are opened meanwhile."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("base") / "run"
    fast = FastTier(run_dir / "fast")
    options = SaveOptions(asynchronous=False, fast_tier=fast)
    save_steps(run_dir, 1, 2, config=CONFIG, options=options)
    (run_dir / "pins").mkdir()
    (run_dir / "pins" / "1").touch()
    holder = Holder("elsewhere", 7, "0", "pid:[1]", "1", 1.7e9)
    lease = LeaseRecord("0" * 32, 1, time.time(), 0.1, holder)
    (run_dir / "lease.json").write_bytes(lease.to_bytes())
    return run_dir


def names_of(run_dir: Path) -> list[str]:
    paths = [path for path in sorted(run_dir.rglob("*")) if path.is_file()]
    names = [str(path.relative_to(run_dir)) for path in paths]
    return [name for name in names if ".data-" not in name and ".index" not in name]


def looks(run_dir: Path) -> list[Any]:
    """Returns all that reads a run, each a look of its own."""
    storage, fast = LocalStorage(str(run_dir)), LocalStorage(str(run_dir / "fast"))
    console = Console(file=io.StringIO(), width=200)
    catalog = Catalog(storage)

    def take() -> None:
        lease = Lease(storage, elapsed=ticks, sleep=lambda _: None)
        lease.take()
        lease.release()

    seconds = iter(range(0, 10**9, 10_000))

    def ticks() -> float:
        return float(next(seconds))

    return [
        lambda: _list(console, storage),
        lambda: _inspect(console, storage, None),
        lambda: _inspect(console, storage, 1),
        lambda: _pin(console, storage, 2, False),
        lambda: list(verify_run(storage)),
        lambda: catalog.latest(),
        lambda: catalog.candidates(),
        lambda: [catalog.digest_or_none(step) for step in catalog.steps()],
        lambda: BatchSizeChanges(storage, CONFIG, time.time).begin(is_allowed=True),
        lambda: read_run(storage),
        lambda: read_run_id(storage),
        lambda: read_record(fast),
        lambda: _list(console, fast),
        take,
        lambda: catalog.clean(),
        lambda: catalog.check_state_file(),
    ]


def _is_strange(path: str, run_dir: Path) -> bool:
    """Tells whether a path is neither the run's, nor the system's or a module."""
    own = (str(run_dir), "/proc/")
    is_module = path.endswith((".py", ".pyc"))
    return path.startswith("/") and not path.startswith(own) and not is_module


def fuzz(base: Path, run_dir: Path, *, count: int, num_looks: int) -> int:
    """Returns how many looks were refused."""
    names, num_refused = names_of(base), 0
    for number in range(count):
        shutil.rmtree(run_dir, ignore_errors=True)
        shutil.copytree(base, run_dir)
        random_ = random.Random(f"hostile-{number}")
        done = spoil(random_, run_dir, names)
        chosen = random_.sample(looks(run_dir), num_looks)
        begin = time.monotonic()
        with watched() as opened:
            for index, look in enumerate(chosen):
                try:
                    look()
                except (ResumableError, OSError) as error:
                    num_refused += 1
                    is_ours = isinstance(error, ResumableError)
                    assert is_ours or error.filename, (number, done, index, error)
                except Exception as error:
                    raise AssertionError((number, done, index)) from error
        assert time.monotonic() - begin < MAX_SECS, (number, done)
        strange = [path for path in opened if _is_strange(path, run_dir)]
        assert not strange, (number, done, strange)
    return num_refused


def check(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    count: int,
    num_looks: int,
) -> None:
    # No power is cut here: what is written need not reach the disk.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    logging.disable(logging.CRITICAL)
    try:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        num_refused = fuzz(base, tmp_path / "run", count=count, num_looks=num_looks)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    finally:
        logging.disable(logging.NOTSET)
    assert after - before < MAX_GROWTH_KIB
    assert num_refused > count / 8
    assert json.loads((base / "run.json").read_text())["config"] == CONFIG


def test_two_thousand_hostile_files_are_read_or_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(base, tmp_path, monkeypatch, count=2000, num_looks=4)


@pytest.mark.proof
def test_fifty_thousand_hostile_files_are_read_or_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(base, tmp_path, monkeypatch, count=50_000, num_looks=16)
