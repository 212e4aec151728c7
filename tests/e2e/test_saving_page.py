"""docs/saving.md: its snippet runs, and what it names exists with these defaults."""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from helpers.small_state import advance, assert_at_step, small_state

import resumable_tf as rtf

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "saving.md").read_text("utf-8")


class Data:
    """Twenty steps an epoch."""

    steps_per_epoch = 20

    def describe(self) -> dict[str, Any]:
        return {}


def run_snippet(run_dir: Path, stop_step: int) -> Any:
    (snippet,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.S | re.M)
    state = small_state(data=Data())

    def train_step(_: int) -> None:
        advance(state)
        state.step -= 1  # The snippet counts.

    names = {
        "run_dir": str(run_dir),
        "state": state,
        "stop_step": stop_step,
        "batches": iter(range(stop_step)),
        "train_step": train_step,
        "evaluate": lambda: {20: 5.0, 40: 9.0, 60: 7.0, 80: 6.0}.get(state.step, 1.0),
    }
    exec(compile(snippet, "saving.md", "exec"), names)
    return state


def test_the_snippet_keeps_the_best_the_multiples_and_the_newest(
    tmp_path: Path,
) -> None:
    for stop_step in (50, 130):
        assert_at_step(run_snippet(tmp_path, stop_step), stop_step)
    kept = {info.step for info in rtf.Checkpointer(str(tmp_path)).checkpoints()}
    wanted = {40, 60, 80, 100, 120}  # The best two, and the newest three.
    assert wanted <= kept
    # And the first of the hour, or two where another hour began meanwhile.
    assert 1 in kept and len(kept - wanted) <= 2


def test_the_names_and_defaults_of_the_page_are_the_projects() -> None:
    used = set(re.findall(r"`(?:rtf\.)?([A-Z][A-Za-z]+)\(", PAGE))
    assert used - {"SaveOptions", "ResumeCallback"} == {
        "AtSteps",
        "AutoInterval",
        "EpochEnds",
        "EverySecs",
        "EverySteps",
        "KeepBest",
        "KeepMultiples",
        "KeepNewest",
        "KeepOnePer",
        "KeepPinned",
        "OnImprovement",
    }
    for name in used:
        assert name in rtf.__all__
    auto = inspect.signature(rtf.AutoInterval).parameters
    defaults = {name: parameter.default for name, parameter in auto.items()}
    assert defaults == {"mean_secs_to_failure": 14_400.0, "max_overhead": 0.01}
    options = rtf.SaveOptions()
    assert (options.when_busy, options.on_storage_error) == ("wait", "stop")


@pytest.mark.parametrize("word", ["auto", "zero"])
def test_the_scripts_flag_takes_a_number_or_auto(word: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "train_translation.py"))
    read = script["_steps_or_auto"]
    assert read("500") == 500
    if word == "auto":
        assert read(word) == "auto"
    else:
        with pytest.raises(Exception, match="neither a number of steps nor auto"):
            read(word)
