"""`scripts/tpu_vm_job.py`, a `gcloud` that knows the documented flags, and a bucket.

cloud = Cloud(tmp_path, fake_gcs)           # the fixture `cloud`
cloud.create()
code, output = cloud.run("status", "--run-dir", RUN_DIR)
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from helpers import fake_gcloud
from helpers.fake_gcs import FakeGcs
from typer.testing import CliRunner

from resumable_tf.storage import open_storage
from resumable_tf.tpu.jobs import JobSettings, create_commands

ROOT = Path(__file__).resolve().parents[2]
RUN_DIR = "gs://bucket/demo"
DEMO = JobSettings(
    name="demo",
    project="my-project",
    zone="us-west4-a",
    accelerator_type="v5litepod-16",
    run_dir=RUN_DIR,
)
CREATE = """
    create --name demo --project my-project --zone us-west4-a
    --accelerator-type v5litepod-16 --run-dir gs://bucket/demo
""".split()

_PROJECT = """
    resumable_tf/__init__.py resumable_tf/__pycache__/a.pyc models/__init__.py
    scripts/train_translation.py setup.cfg pyproject.toml README.md LICENSE
    requirements-tpu.txt secret.txt
""".split()


class Cloud:
    """The script, the fake gcloud and the fake storage together."""

    def __init__(self, folder: Path, store: FakeGcs) -> None:
        self.state_file = folder / "gcloud.json"
        fake_gcloud.put_on_path(folder / "bin", state=self.state_file)
        self.store = store
        self.script = _load_script(folder)

    def create(self, **changes: Any) -> None:
        """Leaves what the command `create` leaves, at once."""
        settings = dataclasses.replace(DEMO, **changes)
        storage = open_storage(settings.run_dir)
        storage.write_bytes("job/job.json", settings.to_json())
        (command,) = create_commands(settings, startup_script="startup.sh")
        state = self.state
        fake_gcloud.create_in(state, fake_gcloud.parse(list(command.argv[1:])))
        self.change(**state)

    def run(self, *args: str, typed: str | None = None) -> tuple[int, str]:
        done = CliRunner().invoke(self.script.app, list(args), input=typed)
        return done.exit_code, done.output

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.state_file.read_text())
        return state

    @property
    def verbs(self) -> list[str]:
        """The calls, without positionals and flags."""
        return [fake_gcloud.parse(argv).command for argv in self.state["calls"]]

    def change(self, **changes: Any) -> None:
        self.state_file.write_text(json.dumps({**self.state, **changes}))

    def preempt(self) -> None:
        """Does to the job what Google does to spot capacity."""
        state = self.state
        state["nodes"]["demo"]["state"] = "PREEMPTED"
        for request in state["requests"].values():
            request["state"]["state"] = "SUSPENDED"
        self.change(**state)

    def stored(self, name: str) -> bytes:
        return open_storage(RUN_DIR).read_bytes(name)


def small_project(folder: Path) -> Path:
    """Leaves files with the names of the project's in a folder, and some others."""
    for name in _PROJECT:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def _load_script(folder: Path) -> Any:
    """Loads the script with a project that lacks nothing but the corpus."""
    path = ROOT / "scripts" / "tpu_vm_job.py"
    spec = importlib.util.spec_from_file_location("tpu_vm_job", path)
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    script.ROOT = small_project(folder / "project")
    return script
