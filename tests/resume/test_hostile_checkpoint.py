"""A checkpoint of `fit` that an attacker has written is refused, and runs nothing.

Its files and checksums are whole: only what stands in the record of `fit` is hostile.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.fit_runs import Interrupted, build, fit, interrupt_after, wait_for_saves
from helpers.hostile_values import packed

import resumable_tf as rtf
from resumable_tf.state.python_values import encode
from resumable_tf.state.value_kinds import Held, Made, Named
from resumable_tf.training.keras.fit_session import FitRecord

pytestmark = [
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*ran out of data:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
SYSTEM = Named("function", "posix:system", ())
Attack = Callable[[str], dict[str, Any]]


def attacks() -> dict[str, Attack]:
    """Returns what each sets of an `EarlyStopping` that restores its best weights."""
    held = "EarlyStopping"
    return {
        "model": lambda command: {
            "_model": Made("types:SimpleNamespace", None, {"set_weights": SYSTEM}),
            "best_weights": command,
        },
        "method": lambda command: {"on_epoch_end": SYSTEM},
        "function": lambda command: {"monitor_op": SYSTEM, "best": command},
        "class": lambda command: {
            "best": Made("subprocess:Popen", None, {"args": command})
        },
        "setting": lambda command: {"patience": 99},
        "type": lambda command: {"__class__": "x"},
        "other object": lambda command: {"best": Held(f"{held}._model", "kept", None)},
        "another state": lambda command: {
            "best": Held(held, "value", Made(held, None, {"patience": 9}))
        },
    }


def write_hostile(run_dir: Path, serialize: Callable[[Any], bytes]) -> None:
    """Interrupts a `fit` whose last checkpoint holds an attacker's record."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FitRecord, "serialize", serialize)
        resume = rtf.ResumeCallback(str(run_dir), save_every_steps=9, keep_last=1)
        with contextlib.suppress(Interrupted):
            fit(build("early_stopping"), [resume, interrupt_after(11)])
        wait_for_saves()


QUICK = {"model", "setting"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in attacks()
    ],
)
def test_a_hostile_record_of_a_callback_is_refused(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    hostile = attacks()[name](f"touch {shlex.quote(str(marker))}")

    def serialize(record: FitRecord) -> bytes:
        for item in record.value["callbacks"]:
            if item["name"] == "EarlyStopping":
                item["attributes"] = {**item["attributes"], **hostile}
        return encode(record.value)

    write_hostile(tmp_path / "run", serialize)
    program = build("early_stopping")
    with pytest.raises(rtf.CheckpointMismatchError, match="EarlyStopping"):
        fit(program, [rtf.ResumeCallback(str(tmp_path / "run"))])
    assert program.callbacks[0].patience == 1
    assert not marker.exists()


def test_a_record_that_names_what_to_import_is_damaged(tmp_path: Path) -> None:
    write_hostile(
        tmp_path / "run", lambda record: packed({"reference": "posix:system"})
    )
    with pytest.raises(rtf.CheckpointCorruptError, match="can be read"):
        fit(build("early_stopping"), [rtf.ResumeCallback(str(tmp_path / "run"))])
