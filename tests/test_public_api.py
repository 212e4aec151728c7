"""Freezes what users rely on: names, signatures, flags, exit codes, the manifest."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import resumable_tf as rtf
from resumable_tf import errors
from resumable_tf.checkpoint import Manifest

ROOT = Path(__file__).resolve().parents[1]

NAMES = """
AtSteps AuditReport AutoInterval CheckpointCorruptError CheckpointInfo
CheckpointMismatchError Checkpointer ConfigMismatchError DataFormatError
DataMismatchError EpochEnds EverySecs EverySteps FastTier FastTierMismatchError
KeepBest KeepMultiples KeepNewest
KeepOnePer KeepPinned NonFiniteLossError OnImprovement Preempted PreemptionGuard
PrepareSettings RecordDataset ResumableError ResumableIterator ResumeCallback SaveHandle
SaveOptions TrainConfig TrainState Translator audit export_translator fit
keep_freed_memory prepare_records train
""".split()

FLAGS = {
    "train_translation.py": """
        --allow-batch-size-change --batch-size --compute-dtype --data
        --deterministic --dropout-rate --eval-every-steps --fast-dir
        --fast-every-steps --gcp-project --grace-secs --keep-last
        --log-every-steps --num-replicas --on-storage-error --place --preset
        --records --row-length --run-dir --save-every-secs --save-every-steps --seed
        --steps-per-call --stop-step --strategy --tpu --tpu-zone --vocab-size
    """.split(),
    "export_model.py": "--beam --output --records --run-dir --step".split(),
    "translate.py": "--batch-size --beam --model".split(),
    "evaluate_translation.py": """
        --batch-size --beam --limit --model --records --show
    """.split(),
}

JOB_FLAGS = {
    "create": """--accelerator-type --dry-run --env --name --network --no-queued
        --no-spot --project --queued --run-dir --runtime-version --service-account
        --spot --subnetwork --valid-until --zone""",
    "status": "--dry-run --run-dir",
    "logs": "--dry-run --follow --lines --run-dir --worker",
    "stop": "--dry-run --run-dir",
    "delete": "--dry-run --run-dir --yes",
    "recreate": "--dry-run --if-lost --run-dir --yes",
    "render-jobset": """--accelerator-type --env --image --name --no-spot --run-dir
        --service-account --spot""",
}

COMMANDS = {
    "audit": "--keep --kill-at --steps".split(),
    "run": """
        --events --first-delay-secs --hang-factor --hang-max-idle-secs --hang-min-secs
        --max-delay-secs --max-fruitless --outcome --project --stop-secs --tpu --tpu-api
        --tpu-wait-secs --zone
    """.split(),
}

MANIFEST = """
step epoch batch files inventory optimizers data extra metrics versions topology config
time
format_version
""".split()

CHECKPOINTER = """
run_dir every_steps every_secs keep_last config options
""".split()


def test_public_names_are_these_and_all_can_be_imported() -> None:
    assert rtf.__all__ == sorted(NAMES)
    for name in NAMES:
        assert getattr(rtf, name).__name__ == name
        assert getattr(rtf, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Saver'"):
        _ = rtf.Saver


def test_importing_the_package_does_not_import_tensorflow() -> None:
    code = (
        "import sys, resumable_tf, resumable_tf.checkpoint, models;"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("script", sorted(FLAGS))
def test_flags_are_these_and_help_needs_no_tensorflow(script: str) -> None:
    code = (
        "import runpy, sys; sys.argv = ['x', '--help'];\n"
        f"try: runpy.run_path('scripts/{script}', run_name='__main__')\n"
        "except SystemExit: print('TF', 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"COLUMNS": "200", "PATH": "", "TERM": "dumb"},
        capture_output=True,
        text=True,
    )
    assert "TF False" in done.stdout, done.stderr
    words = done.stdout.replace("\u2502", " ").split()
    found = {word for word in words if word.startswith("--") and word[2:3].isalpha()}
    assert sorted(found - {"--help", "--no-deterministic"}) == FLAGS[script]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_commands_have_these_flags_and_help_needs_no_tensorflow(
    command: str,
) -> None:
    code = (
        "import sys; from resumable_tf.cli.app import app\n"
        f"try: app(['{command}', '--help'])\n"
        "except SystemExit: print('TF', 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"COLUMNS": "200", "PATH": "", "TERM": "dumb"},
        capture_output=True,
        text=True,
    )
    assert "TF False" in done.stdout, done.stderr
    words = done.stdout.replace("\u2502", " ").split()
    found = {word for word in words if word.startswith("--") and word[2:3].isalpha()}
    assert sorted(found - {"--help"}) == COMMANDS[command]


@pytest.mark.parametrize("command", sorted(JOB_FLAGS))
def test_the_tpu_job_has_these_flags_and_help_needs_no_tensorflow(command: str) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['x', '{command}', '--help'];\n"
        "try: runpy.run_path('scripts/tpu_vm_job.py', run_name='__main__')\n"
        "except SystemExit: print('TF', 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"COLUMNS": "200", "PATH": "", "TERM": "dumb"},
        capture_output=True,
        text=True,
    )
    assert "TF False" in done.stdout, done.stderr
    words = done.stdout.replace("\u2502", " ").split()
    found = {word for word in words if word.startswith("--") and word[2:3].isalpha()}
    assert sorted(found - {"--help"}) == JOB_FLAGS[command].split()


def test_exit_codes_are_these() -> None:
    codes = {name: getattr(errors, name) for name in dir(errors) if "EXIT_" in name}
    assert codes == {
        "EXIT_CRASH_LOOP": 70,
        "EXIT_FAILED": 1,
        "EXIT_FINISHED": 0,
        "EXIT_PREEMPTED": 75,
        "EXIT_UNAVAILABLE": 69,
        "EXIT_USAGE": 2,
    }


def test_the_manifest_has_these_fields() -> None:
    assert [field.name for field in dataclasses.fields(Manifest)] == MANIFEST


def test_a_checkpointer_is_made_from_these_arguments() -> None:
    parameters = list(inspect.signature(rtf.Checkpointer).parameters)
    assert parameters == CHECKPOINTER
