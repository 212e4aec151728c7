"""Every command of docs/tpu.md runs, in its order, against the fake `gcloud`."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import fake_gcloud
from helpers.fake_gcs import FakeGcs

from resumable_tf.tpu.accelerators import parse_accelerator
from resumable_tf.training.config import TrainConfig
from resumable_tf.training.step import rows_per_replica

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


def _training_flags(command: str) -> tuple[str, dict[str, str]]:
    """Returns the accelerator type, and the flags of training with their values."""
    ours, _, flags = command.partition(" -- ")
    words = shlex.split(flags)
    assert all(word.startswith("--") for word in words[::2]), command
    flag = "--accelerator-type "
    (accelerator_type,) = re.findall(rf"{flag}(\S+)", ours)
    return accelerator_type, dict(zip(words[::2], words[1::2], strict=True))


def test_the_trainings_of_the_page_can_train() -> None:
    """A batch that the replicas can't share ends them with 2, on a TPU that is paid."""
    makers = [
        command
        for command in _commands(PAGE)
        if re.search(r"tpu_vm_job\.py (create|render-jobset) ", command)
    ]
    assert len(makers) == 3
    for command in makers:
        accelerator_type, flags = _training_flags(command)
        config = TrainConfig(
            run_dir="unused",
            preset=flags["--preset"],
            batch_size=int(flags["--batch-size"]),
            compute_dtype=flags["--compute-dtype"],
            data=flags.get("--data", "embedded"),
        )
        num_replicas = parse_accelerator(accelerator_type).num_replicas
        assert rows_per_replica(config.global_batch_size, num_replicas) > 0
        # As `tpu check` compiles it.
        assert config.compute_dtype == "bfloat16"


def test_the_page_shows_no_command_that_is_not_tested() -> None:
    outside = re.sub(r"^```bash\n.*?^```", "", PAGE, flags=re.S | re.M)
    assert not re.findall(r"^\s*(?:\$ )?(?:gcloud|python) ", outside, flags=re.M)
    assert len(_commands(PAGE)) > 15
