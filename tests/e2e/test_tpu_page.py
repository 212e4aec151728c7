"""Every command of docs/tpu.md runs, in its order, against the fake `gcloud`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import fake_gcloud
from helpers.fake_gcs import FakeGcs

ROOT = Path(__file__).resolve().parents[2]
# What needs no project has tests of its own.
_ELSEWHERE = ("Compile check", "Doctor")
_LINKED = ("resumable_tf", "models", "setup.cfg", "pyproject.toml", "README.md")


def _page() -> str:
    """Returns the sections about a job in the cloud."""
    text = (ROOT / "docs" / "tpu.md").read_text("utf-8")
    sections = re.split(r"^(?=## )", text, flags=re.M)
    skipped = tuple(f"## {name}\n" for name in _ELSEWHERE)
    return "".join(part for part in sections if not part.startswith(skipped))


PAGE = _page()


def _checkout(folder: Path) -> Path:
    """Returns a checkout of the project."""
    checkout = folder / "checkout"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    for name in (*_LINKED, "LICENSE"):
        (checkout / name).symlink_to(ROOT / name)
    (checkout / "requirements-tpu.txt").write_text("tensorflow-tpu\n")
    return checkout


def _commands(text: str) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.S | re.M)
    return [line for block in blocks for line in block.splitlines()]


def _preempt(state_file: Path) -> None:
    state = json.loads(state_file.read_text())
    state["nodes"]["demo"]["state"] = "PREEMPTED"
    state["requests"]["demo"]["state"]["state"] = "SUSPENDED"
    state_file.write_text(json.dumps(state))


@pytest.mark.e2e
@pytest.mark.slow
def test_the_page_leads_from_an_empty_project_to_a_resumed_run(tmp_path: Path) -> None:
    state_file = tmp_path / "gcloud.json"
    fake_gcloud.put_on_path(tmp_path / "bin", state=state_file)
    path = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    before, preempted = PAGE.split("## Preempted")
    outputs = {}
    with FakeGcs(buckets=("my-project-runs",)) as store:
        env = {
            **os.environ,
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": str(ROOT),
            "STORAGE_EMULATOR_HOST": store.url,
        }
        checkout = _checkout(tmp_path)
        for part, text in (("before", before), ("preempted", preempted)):
            for command in _commands(text):
                done = subprocess.run(
                    ["bash", "-euc", command],
                    cwd=checkout,
                    env=env,
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
                outputs.setdefault(part, []).append(done.stdout)
            if part == "before":
                _preempt(state_file)
    status = next(text for text in outputs["before"] if text.startswith("job "))
    (sample,) = re.findall(r"^```text\n(.*?)^```", PAGE, flags=re.S | re.M)
    assert status.splitlines()[:3] == sample.splitlines()[:3]
    lost, recreated, back = outputs["preempted"][:3]
    assert "SUSPENDED" in lost and "the TPU is gone" in lost
    assert "Create request issued" in recreated
    assert "ACTIVE" in back and "gone" not in back
    assert "not lost; nothing was done" in outputs["preempted"][3]
    assert json.loads(state_file.read_text())["nodes"] == {}


def test_the_page_shows_no_command_that_is_not_tested() -> None:
    outside = re.sub(r"^```bash\n.*?^```", "", PAGE, flags=re.S | re.M)
    assert not re.findall(r"^\s*(?:\$ )?(?:gcloud|python) ", outside, flags=re.M)
    assert len(_commands(PAGE)) > 15
