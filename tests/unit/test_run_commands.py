"""`resumable-tf ls`, `inspect` and `verify`: runs that are whole, empty, damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.small_state import advance, small_state
from typer.testing import CliRunner

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.cli.app import app


def invoke(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(args))
    return done.exit_code, done.output


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    state = small_state()
    with Checkpointer(str(tmp_path), config={"seed": 5}) as checkpointer:
        for loss in (0.5, 0.25):
            advance(state)
            checkpointer.save(state, metrics={"loss": loss})
    return tmp_path


def test_ls_shows_each_checkpoint_with_its_metrics(run_dir: Path) -> None:
    code, output = invoke("ls", str(run_dir))
    assert code == 0
    lines = [line.split() for line in output.splitlines() if "loss=" in line]
    assert [(line[0], line[-1]) for line in lines] == [
        ("1", "loss=0.5"),
        ("2", "loss=0.25"),
    ]


def test_inspect_shows_settings_and_every_value(run_dir: Path) -> None:
    code, output = invoke("inspect", str(run_dir), "--step", "1")
    assert code == 0
    manifest = Checkpointer(str(run_dir)).checkpoints()[0].manifest
    for key in manifest.inventory:
        assert key in output
    assert '{"seed": 5}' in output and manifest.versions["tensorflow"] in output


def test_verify_names_the_damaged_file_and_ends_with_1(run_dir: Path) -> None:
    assert invoke("verify", str(run_dir))[0] == 0
    data = run_dir / "checkpoints" / "ckpt-2.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    code, output = invoke("verify", str(run_dir))
    assert code == 1
    good, bad = output.splitlines()
    assert good.startswith("step 1: good, 2 files")
    assert bad.startswith(f"step 2: {data.name} has crc32c")
    assert invoke("verify", str(run_dir), "--step", "1")[0] == 0


def test_a_damaged_manifest_is_listed_as_such(run_dir: Path) -> None:
    (run_dir / "checkpoints" / "ckpt-2.manifest.json").write_text("{")
    code, output = invoke("ls", str(run_dir))
    assert code == 1 and "its manifest is damaged" in output
    code, output = invoke("inspect", str(run_dir))
    assert code == 1 and "CheckpointCorruptError" in output


@pytest.mark.parametrize("command", ["ls", "inspect", "verify"])
def test_a_directory_without_checkpoints_is_said_to_be_one(
    command: str, tmp_path: Path
) -> None:
    code, output = invoke(command, str(tmp_path))
    assert code == (0 if command == "ls" else 1)
    assert f"{tmp_path} has no" in output
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_is_not_there_is_named_with_those_that_are(run_dir: Path) -> None:
    for command in ("inspect", "verify"):
        code, output = invoke(command, str(run_dir), "--step", "7")
        assert code == 1
        assert "no checkpoint of step 7; it has [1, 2]" in output


def test_the_commands_do_not_import_tensorflow(run_dir: Path) -> None:
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from resumable_tf.cli.app import app\n"
        f"done = [CliRunner().invoke(app, [c, {str(run_dir)!r}]).exit_code\n"
        "        for c in ('ls', 'inspect', 'verify')]\n"
        "sys.exit(done != [0, 0, 0] or 'tensorflow' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_pinned_step_is_kept_by_a_run_that_trains_until_it_is_unpinned(
    tmp_path: Path,
) -> None:
    state = small_state()
    with Checkpointer(str(tmp_path), keep_last=1) as checkpointer:

        def save() -> list[int]:
            advance(state)
            checkpointer.save(state).result()
            return [info.step for info in checkpointer.checkpoints()]

        assert save() == [1]
        code, output = invoke("pin", str(tmp_path), "1")
        assert code == 0 and output.endswith("pinned 1\n")
        assert save() == [1, 2]
        assert save() == [1, 3]
        code, output = invoke("pin", str(tmp_path), "2")
        assert code == 1 and "has no checkpoint of step 2" in output
        code, output = invoke("pin", str(tmp_path), "1", "--remove")
        assert code == 0 and output.endswith("pinned none\n")
        assert save() == [4]
