"""A tenth of the proof, or any other share, chosen by a commit.

    pytest -m "proof and not tpu" --proof-part=auto/10
    pytest -m "proof and not tpu" --proof-part=3/10

A test is in part `hash(its id) % 10`; "auto" is the part of the newest commit, whose
hash decides it: each commit runs one part, and ten commits or so run all. Whoever looks
at a failure gets the same part again from the same commit.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def add_option(parser: pytest.Parser) -> None:
    parser.addoption(
        "--proof-part",
        metavar="K/N",
        help="run only part K of N of the selected tests; K may be auto",
    )


def parse(text: str) -> tuple[int, int]:
    """Returns which part of how many.

    Raises:
        pytest.UsageError: If it is none.
    """
    which, _, of = text.partition("/")
    if not of.isdigit() or int(of) == 0 or not (which == "auto" or which.isdigit()):
        raise pytest.UsageError(f"--proof-part={text}: neither K/N nor auto/N")
    num_parts = int(of)
    part = int(newest_commit(), 16) % num_parts if which == "auto" else int(which)
    if part >= num_parts:
        raise pytest.UsageError(f"--proof-part={text}: parts are 0 to {num_parts - 1}")
    return part, num_parts


def newest_commit() -> str:
    """Returns the hash of the newest commit, 0 where there is no repository."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else "0"


def part_of(test_id: str, num_parts: int) -> int:
    """Returns the part that a test is in, always the same."""
    digest = hashlib.sha256(test_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % num_parts


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves only the part that was asked for."""
    text = config.getoption("--proof-part")
    if text is None:
        return
    part, num_parts = parse(text)
    kept, left_out = [], []
    for item in items:
        is_in = part_of(item.nodeid, num_parts) == part
        (kept if is_in else left_out).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)
    said = f"part {part} of {num_parts}: {len(kept)} tests"
    config.stash[_SAID] = said


_SAID = pytest.StashKey[str]()


def said(config: pytest.Config) -> str | None:
    """Returns which part was chosen, for the end of the output."""
    return config.stash.get(_SAID, None)
