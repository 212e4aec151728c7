"""Settings of a TPU job, the commands and files that they mean, and the manifest."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shlex
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_gcloud import COMMANDS, Refused, parse
from helpers.tpu_job import small_project
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.errors import EXIT_CRASH_LOOP, EXIT_USAGE, UsageError
from resumable_tf.tpu import jobs
from resumable_tf.tpu.accelerators import GENERATIONS, parse_accelerator
from resumable_tf.tpu.checks import location_warnings
from resumable_tf.tpu.job_files import (
    env_script,
    image_warnings,
    job_files,
    pod_worker,
    train_script,
)
from resumable_tf.tpu.jobs import JobSettings
from resumable_tf.tpu.jobset import container_script, jobset_manifest

ROOT = Path(__file__).resolve().parents[2]
DEMO = JobSettings(
    name="demo",
    project="my-project",
    zone="us-west4-a",
    accelerator_type="v5litepod-16",
    run_dir="gs://bucket/runs/demo",
)


def variant(**changes: Any) -> JobSettings:
    return dataclasses.replace(DEMO, **changes)


def all_commands(settings: JobSettings) -> list[jobs.Command]:
    describe = [c for c in jobs.describe_commands(settings) if c is not None]
    return [
        *jobs.create_commands(settings, startup_script="startup.sh"),
        *describe,
        *jobs.stop_commands(settings),
        *jobs.delete_commands(settings),
        jobs.logs_command(settings, worker=1, num_lines=5),
        jobs.follow_command(settings, worker=0),
        jobs.bucket_command(settings),
        jobs.put_command(settings, "train.sh", b"x", about="a file"),
    ]


@pytest.mark.parametrize("is_queued", [True, False])
@pytest.mark.parametrize("is_spot", [True, False])
@pytest.mark.parametrize("accelerator_type", ["v4-8", "v5litepod-16", "v6e-8"])
def test_every_command_has_documented_flags_only(
    is_queued: bool, is_spot: bool, accelerator_type: str
) -> None:
    settings = variant(
        is_queued=is_queued,
        is_spot=is_spot,
        accelerator_type=accelerator_type,
        valid_until="6h" if is_queued else None,
        service_account="a@my-project.iam.gserviceaccount.com",
        network="net",
        subnetwork="sub",
    )
    for command in all_commands(settings):
        assert command.argv[0] == "gcloud"
        call = parse(list(command.argv[1:]))
        assert call.flags["--project"] == "my-project"
        if "compute tpus" in call.command:
            assert call.flags["--zone"] == "us-west4-a"
    create = parse(list(all_commands(settings)[0].argv[1:]))
    kind = "queued-resources" if is_queued else "tpu-vm"
    assert create.command == f"compute tpus {kind} create"
    assert ("--spot" in create.flags) == is_spot
    assert create.flags["--accelerator-type"] == accelerator_type
    assert create.flags["--metadata"] == "resumable-tf-job=gs://bucket/runs/demo/job"


def test_the_fake_refuses_what_the_reference_does_not_have() -> None:
    (create,) = jobs.create_commands(DEMO, startup_script="startup.sh")
    argv = list(create.argv[1:])
    for wrong, said in [
        ([*argv, "--preemptible-ish"], "unrecognized"),
        ([*argv, "--spot=yes"], "expected no argument"),
        ([word for word in argv if "--zone" not in word], "--zone"),
        ([word for word in argv if "--node-id" not in word], "--node-id"),
        ([*argv, "another"], "positionals"),
        (["compute", "tpus", "recreate", "x"], "Invalid choice"),
    ]:
        with pytest.raises(Refused, match=said):
            parse(wrong)
    assert all(re.fullmatch(r"[a-z -]+", command) for command in COMMANDS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "Demo"}, "--name 'Demo'"),
        ({"name": "a" * 64}, "--name"),
        ({"project": "p"}, "--project 'p'"),
        ({"zone": "us-west4"}, "--zone 'us-west4'.*us-west4-a"),
        ({"run_dir": "runs/demo"}, "--run-dir 'runs/demo'.*gs://BUCKET/PATH"),
        ({"run_dir": "gs://bucket"}, "--run-dir"),
        ({"run_dir": "gs://bucket/demo/"}, "--run-dir"),
        ({"run_dir": "gs://bucket/$(reboot)"}, "--run-dir"),
        ({"accelerator_type": "v5e-16"}, "--accelerator-type 'v5e-16'.*v5litepod"),
        ({"accelerator_type": "v4-7"}, "TensorCores"),
        ({"accelerator_type": "v6e-13"}, "no whole number"),
        ({"accelerator_type": "v5litepod-2"}, "no slice.*v5litepod-1, v5litepod-4"),
        ({"accelerator_type": "v5litepod-3"}, "no slice"),
        ({"accelerator_type": "v6e-7"}, "no slice.*v6e-1, v6e-4, v6e-8"),
        ({"accelerator_type": "v2-4"}, "no slice.*v2-8"),
        ({"accelerator_type": "v5p-4"}, "no slice.*v5p-8"),
        ({"service_account": "me"}, "--service-account"),
        ({"valid_until": "soon"}, "--valid-until"),
        ({"valid_until": "6h", "is_queued": False}, "--valid-until 6h has no effect"),
        ({"train_args": ("--run-dir", "x")}, "--run-dir after -- is set by the job"),
        ({"train_args": ("--strategy=one",)}, "--strategy after --"),
    ],
)
def test_what_can_not_work_is_refused_with_the_flag(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=re.compile(said, re.S)):
        variant(**changes)


def test_a_secret_among_the_flags_is_refused_without_being_shown() -> None:
    with pytest.raises(UsageError, match="--env NAME") as raised:
        variant(train_args=("--hub-token", "hunter2"))
    assert "hunter2" not in str(raised.value)
    with pytest.raises(UsageError) as raised:
        variant(train_args=("--hub-token=hunter2",))
    assert "hunter2" not in str(raised.value)


def test_tpu7x_is_refused_with_where_it_is_to_be_had() -> None:
    batch = ("--batch-size", "32")
    settings = variant(accelerator_type="tpu7x-16", train_args=batch)
    with pytest.raises(UsageError, match=r"Compute Engine or GKE.*render-jobset"):
        jobs.create_commands(settings, startup_script="startup.sh")
    manifest = jobset_manifest(settings, image="i", env={})
    pod = _pod_of(manifest)
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu7x"


@pytest.mark.parametrize(
    ("name", "num_chips", "num_hosts"),
    [
        # cloud.google.com/tpu/docs: v4, v5p count TensorCores, v5e and v6e chips.
        ("v2-8", 4, 1),
        ("v3-32", 16, 4),
        ("v4-8", 4, 1),
        ("v4-32", 16, 4),
        ("v5litepod-1", 1, 1),
        ("v5litepod-8", 8, 1),
        ("v5litepod-16", 16, 4),
        ("v5p-128", 64, 16),
        ("v6e-8", 8, 1),
        ("v6e-256", 256, 64),
    ],
)
def test_chips_and_hosts_follow_from_the_type(
    name: str, num_chips: int, num_hosts: int
) -> None:
    accelerator = parse_accelerator(name)
    assert (accelerator.num_chips, accelerator.num_hosts) == (num_chips, num_hosts)
    assert accelerator.is_pod == (num_hosts > 1)


def test_a_topology_has_as_many_chips_as_the_table_says() -> None:
    for kind in GENERATIONS.values():
        for chips, shape in kind.topologies.items():
            sides = [int(side) for side in shape.split("x")]
            product = sides[0] * sides[1] * (sides[2] if len(sides) == 3 else 1)
            assert product == chips, (kind.name, shape)


def test_an_unknown_image_is_a_warning_that_names_the_newest_known() -> None:
    assert image_warnings(DEMO) == []
    (warning,) = image_warnings(variant(runtime_version="v9-alpha"))
    assert "v2-alpha-tpuv5-lite" in warning
    found = image_warnings(variant(runtime_version="tpu-vm-tf-2.18.0-pjrt"))
    assert "2.18.0" in found[0] and "-pod" in found[1]


def test_who_answers_on_a_pod_follows_from_the_image() -> None:
    assert pod_worker(variant(accelerator_type="v4-8")) == "none"
    assert pod_worker(DEMO) == "own"
    image = variant(runtime_version="tpu-vm-tf-2.18.0-pod-pjrt")
    assert pod_worker(image) == "image"


@pytest.mark.parametrize(
    ("location", "is_near"),
    [
        ("US-WEST4", True),
        ("us-west4", True),
        ("US", True),
        ("EU", False),
        ("US-CENTRAL1", False),
        ("", False),
    ],
)
def test_a_bucket_elsewhere_is_a_warning(location: str, is_near: bool) -> None:
    warnings = location_warnings({"location": location}, zone="us-west4-a")
    assert (warnings == []) == is_near


def test_a_dual_region_bucket_is_near_in_both_of_its_regions() -> None:
    bucket = {"location": "US", "data_locations": ["US-CENTRAL1", "US-WEST1"]}
    bucket["location"] = "NAM8"
    assert location_warnings(bucket, zone="us-central1-b") == []
    assert location_warnings(bucket, zone="us-west4-b")


def test_settings_come_back_from_their_file() -> None:
    settings = variant(train_args=("--preset", "base"), is_spot=False)
    assert JobSettings.from_json(settings.to_json()) == settings
    with pytest.raises(UsageError, match=r"job\.json can't be read"):
        JobSettings.from_json(b"{}")


def test_the_training_command_is_the_supervisor_of_the_script() -> None:
    single = variant(accelerator_type="v4-8", train_args=("--preset", "base"))
    *_, last = train_script(single).splitlines()
    words = shlex.split(last)
    assert words[:5] == ["exec", "resumable-tf", "run", "--stop-secs", "25"]
    script = words.index("--") + 1
    assert words[script : script + 2] == ["python", "scripts/train_translation.py"]
    assert words[-2:] == ["--preset", "base"]
    assert "TPU_LOAD_LIBRARY" not in train_script(single)
    assert "export TPU_LOAD_LIBRARY=0" in train_script(DEMO)


@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_the_shell_gets_each_variable_as_it_was(value: str) -> None:
    script = env_script(DEMO, {"VALUE": value}) + 'printf %s "$VALUE"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stdout == value.encode()


def test_job_files_hold_the_project_and_hide_secrets_from_the_preview(
    tmp_path: Path,
) -> None:
    root = small_project(tmp_path)
    env = {"HF_TOKEN": "hunter2", "SEED": "5"}
    files = job_files(DEMO, env=env, project_root=root)
    by_name = {file.name: file for file in files}
    # job.json makes the job known; what it needs must be there before.
    assert files[-1].name == "job.json"
    assert b"hunter2" in by_name["job.env"].data
    for file in files:
        assert "hunter2" not in f"{file.preview} {file.about}"
    assert b"hunter2" not in by_name["job.json"].data
    archive = tarfile.open(fileobj=io.BytesIO(by_name["source.tar.gz"].data))
    names = archive.getnames()
    assert "scripts/train_translation.py" in names and "requirements-tpu.txt" in names
    assert not [name for name in names if "__pycache__" in name or "secret" in name]
    again = job_files(DEMO, env=env, project_root=root)
    assert [file.data for file in again] == [file.data for file in files]


def test_an_incomplete_project_is_refused(tmp_path: Path) -> None:
    root = small_project(tmp_path)
    (root / "requirements-tpu.txt").unlink()
    with pytest.raises(UsageError, match=r"lacks requirements-tpu\.txt"):
        job_files(DEMO, env={}, project_root=root)
    with pytest.raises(UsageError, match="--env '1X'"):
        env_script(DEMO, {"1X": ""})


def _pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod: dict[str, Any] = job["template"]["spec"]
    return pod


def test_the_manifest_has_a_pod_with_its_chips_for_each_host() -> None:
    env = {"HF_TOKEN": "hunter2", "SEED": "5"}
    manifest = jobset_manifest(DEMO, image="img:1", env=env)
    text = json.dumps(manifest)
    assert json.loads(text) == manifest and "hunter2" not in text
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [EXIT_USAGE, EXIT_CRASH_LOOP]
    pod = _pod_of(manifest)
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    secret, plain = container["env"]
    assert secret["valueFrom"]["secretKeyRef"] == {
        "name": "demo-secrets",
        "key": "HF_TOKEN",
    }
    assert plain == {"name": "SEED", "value": "5"}


def test_what_gke_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="no GKE node pool"):
        jobset_manifest(variant(accelerator_type="v3-8"), image="i", env={})
    odd = variant(accelerator_type="v6e-24")
    with pytest.raises(UsageError, match=r"(?s)no GKE topology.*Known: v6e-1"):
        jobset_manifest(odd, image="i", env={})


@pytest.mark.parametrize("index", [0, 1, 3])
def test_host_0_of_the_jobset_trains_and_all_answer(index: int, tmp_path: Path) -> None:
    """Runs the container's script with programs that say how they were called."""
    for name in ("python", "resumable-tf"):
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho "{name} $TPU_LOAD_LIBRARY $TPU_NAME $@"\n')
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", container_script(DEMO) + "\n"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "JOB_COMPLETION_INDEX": str(index)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = sorted(done.stdout.splitlines())
    worker = f"python   -m resumable_tf.tpu.pod_worker --task-index {index}"
    hosts = ",".join(f"grpc://demo-slice-0-{i}.demo:8470" for i in range(4))
    client = (
        f"resumable-tf 0 {hosts} run --stop-secs 20 --max-fruitless 8 -- python "
        "scripts/train_translation.py --strategy tpu --run-dir gs://bucket/runs/demo "
        "--grace-secs 20"
    )
    assert lines == ([worker, client] if index == 0 else [worker])
