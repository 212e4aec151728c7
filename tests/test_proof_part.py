"""The share of the proof that CI runs: the commit says which, and none is left out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import proof_part
import pytest

TEST_IDS = [f"tests/crash/test_a.py::test_b[{number}]" for number in range(1000)]


def test_all_parts_together_are_all_tests_and_none_is_large() -> None:
    parts = [proof_part.part_of(test_id, 10) for test_id in TEST_IDS]
    sizes = [parts.count(part) for part in range(10)]
    assert sum(sizes) == len(TEST_IDS)
    assert min(sizes) > 70 and max(sizes) < 130
    # The same in every process: Python's own hash() is not.
    assert parts[:8] == [proof_part.part_of(test_id, 10) for test_id in TEST_IDS[:8]]


def test_the_commit_chooses_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for commit, part in (("0" * 39 + "b", 1), ("0" * 38 + "63", 9)):
        monkeypatch.setattr(proof_part, "newest_commit", lambda commit=commit: commit)
        assert proof_part.parse("auto/10") == (part, 10)
    assert proof_part.parse("3/4") == (3, 4)


@pytest.mark.parametrize("text", ["3", "4/4", "1/0", "x/4", "auto", "-1/4"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(pytest.UsageError, match="--proof-part"):
        proof_part.parse(text)


def test_without_a_repository_there_is_a_part_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_part, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert proof_part.parse("auto/10") == (0, 10)


def test_make_runs_a_tenth_and_says_which() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text("utf-8")
    assert "PART ?= auto/10\n" in makefile
    assert "--proof-part=$(PART)" in makefile
    listed = subprocess.run(
        ["make", "help"], cwd=Path(__file__).parents[1], text=True, stdout=-1
    )
    assert "proof-part" in listed.stdout
