"""The start-up script really runs, below a root of its own, with real HTTP."""

from __future__ import annotations

import configparser
import dataclasses
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.fake_gcs import FakeGcs
from helpers.tpu_vm import SCRIPT, TOKEN, MetadataServer, TpuVm

from resumable_tf.errors import EXIT_CRASH_LOOP, EXIT_PREEMPTED, EXIT_USAGE
from resumable_tf.storage import open_storage
from resumable_tf.tpu import pod_worker
from resumable_tf.tpu.job_files import STOP_SECS, job_files
from resumable_tf.tpu.jobs import METADATA_KEY, JobSettings

POD = JobSettings(
    name="demo",
    project="my-project",
    zone="us-west4-a",
    accelerator_type="v5litepod-16",
    run_dir="gs://bucket/runs/demo",
    train_args=("--preset", "tiny"),
)
SINGLE = dataclasses.replace(POD, accelerator_type="v4-8")
_WORKER = "instance/attributes/agent-worker-number"
_HOSTS = "instance/attributes/worker-network-endpoints"
_PROJECT = """
    resumable_tf/a.py models/b.py scripts/train_translation.py setup.cfg pyproject.toml
    README.md LICENSE requirements-tpu.txt
""".split()


@pytest.fixture
def metadata() -> Iterator[MetadataServer]:
    attribute = f"instance/attributes/{METADATA_KEY}"
    addresses = [f"unknown:unknown:10.0.0.{host}" for host in (7, 5, 9, 6)]
    values = {attribute: POD.job_dir, _HOSTS: ",".join(addresses)}
    with MetadataServer(values) as server:
        yield server


@pytest.fixture
def host(tmp_path: Path, metadata: MetadataServer, fake_gcs: FakeGcs) -> TpuVm:
    return TpuVm(tmp_path, metadata, fake_gcs)


def put_job(folder: Path, settings: JobSettings, **env: str) -> None:
    """Leaves the files of `create` in the bucket."""
    for name in _PROJECT:
        path = folder / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    storage = open_storage(settings.job_dir)
    for file in job_files(settings, env=env, project_root=folder / "project"):
        storage.write_bytes(file.name, file.data)


def unit_of(
    host: TpuVm, name: str, section: str = "Service"
) -> configparser.SectionProxy:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(host.file(f"etc/systemd/system/{name}.service").read_text())
    return unit[section]


def test_bash_can_read_it() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_one_host_installs_and_starts_training(host: TpuVm, tmp_path: Path) -> None:
    put_job(tmp_path, SINGLE, HF_TOKEN="hunter2")
    done = host.boot()
    assert done.returncode == 0, done.stderr
    pip = ["python", "-m", "pip", "--disable-pip-version-check", "install"]
    source = str(host.file("opt/resumable-tf/source"))
    installs = [call for call in host.calls if call[:5] == pip]
    # --no-deps: tensorflow-text would bring the CPU's TensorFlow over the TPU's.
    assert installs == [
        [*pip, "--no-deps", "--requirement", f"{source}/requirements-tpu.txt"],
        [*pip, "--no-deps", "--editable", source],
    ]
    assert host.file("opt/resumable-tf/source/scripts/train_translation.py").exists()
    assert unit_of(host, "resumable-tf")["ExecStart"] == "/opt/resumable-tf/start.sh"
    assert not host.file("etc/systemd/system/resumable-tf-worker.service").exists()
    for name in ("job.env", "train.sh", "start.sh"):
        mode = host.file(f"opt/resumable-tf/{name}").stat().st_mode
        assert not mode & (stat.S_IRWXG | stat.S_IRWXO), name


def test_training_is_stopped_once_and_in_time_and_started_again(
    host: TpuVm, tmp_path: Path
) -> None:
    """What the unit says, against what the supervisor and a spot VM do."""
    put_job(tmp_path, SINGLE)
    host.boot()
    service = unit_of(host, "resumable-tf")
    # The supervisor alone gets SIGTERM, and passes it on.
    assert (service["KillMode"], service["KillSignal"]) == ("mixed", "SIGTERM")
    assert STOP_SECS < int(service["TimeoutStopSec"]) < 30
    assert service["Restart"] == "on-failure"
    # A crash loop, and what no restart mends. What is not there (69) may come back.
    assert service["RestartPreventExitStatus"] == f"{EXIT_USAGE} {EXIT_CRASH_LOOP}"
    assert service["RestartForceExitStatus"] == str(EXIT_PREEMPTED)


def test_a_second_boot_changes_and_restarts_nothing(
    host: TpuVm, tmp_path: Path
) -> None:
    put_job(tmp_path, SINGLE)
    host.boot()
    assert ["systemctl", "restart", "--no-block", "resumable-tf.service"] in host.calls
    before = host.snapshot()
    done = host.boot()
    assert done.returncode == 0 and "installed already" in done.stdout
    assert host.snapshot() == before
    calls = host.calls
    assert ["systemctl", "start", "--no-block", "resumable-tf.service"] in calls
    assert not [call for call in calls if "pip" in call or "restart" in call]


def test_a_changed_job_is_installed_and_restarted(host: TpuVm, tmp_path: Path) -> None:
    put_job(tmp_path, SINGLE)
    host.boot()
    _ = host.calls
    put_job(tmp_path, SINGLE, SEED="7")
    host.boot()
    calls = host.calls
    assert ["systemctl", "restart", "--no-block", "resumable-tf.service"] in calls
    assert not [call for call in calls if "pip" in call]
    (tmp_path / "project" / "models" / "new.py").write_text("")
    put_job(tmp_path, SINGLE, SEED="7")
    host.boot()
    assert [call for call in host.calls if "pip" in call]
    assert host.file("opt/resumable-tf/source/models/new.py").exists()


def test_an_interrupted_installation_is_done_again(host: TpuVm, tmp_path: Path) -> None:
    put_job(tmp_path, SINGLE)
    done = host.boot(FAIL_INSTALL="1")
    assert done.returncode != 0
    assert not [call for call in host.calls if call[0] == "systemctl"]
    assert host.boot().returncode == 0
    assert len([call for call in host.calls if "pip" in call]) == 2


def test_a_boot_in_the_middle_of_making_the_venv_is_mended_by_the_next(
    host: TpuVm, tmp_path: Path
) -> None:
    """Python's link is there before pip is: nobody could install into such a venv."""
    put_job(tmp_path, SINGLE)
    assert host.boot(KILL_VENV="1").returncode == -signal.SIGKILL
    assert host.file("opt/resumable-tf/venv/bin/python").exists()
    done = host.boot()
    assert done.returncode == 0, done.stderr
    assert ["systemctl", "restart", "--no-block", "resumable-tf.service"] in host.calls


def test_an_update_that_is_interrupted_does_not_trust_the_venv(
    host: TpuVm, tmp_path: Path
) -> None:
    """A package that was half replaced may count as installed."""
    put_job(tmp_path, SINGLE)
    host.boot()
    venv = host.file("opt/resumable-tf/venv")
    (venv / "old").touch()
    (tmp_path / "project" / "models" / "new.py").write_text("")
    put_job(tmp_path, SINGLE)
    python = venv / "bin" / "python"
    works = python.read_text()
    python.write_text(works.replace("\nexit 0\n", "\nexit 1\n"))
    assert host.boot().returncode != 0
    assert (venv / "old").exists()  # An update as such takes what is there.
    assert host.boot().returncode == 0
    assert not (venv / "old").exists()


def test_an_image_without_venv_gets_the_package(host: TpuVm, tmp_path: Path) -> None:
    put_job(tmp_path, SINGLE)
    assert host.boot(NO_ENSUREPIP="1").returncode == 0
    installs = [call for call in host.calls if call[0] == "apt-get"]
    assert installs[-1][-3:] == ["install", "--yes", "python3-venv"]


@pytest.mark.parametrize("index", ["0", "3"])
def test_on_a_pod_all_hosts_answer_and_worker_0_trains(
    host: TpuVm, tmp_path: Path, metadata: MetadataServer, index: str
) -> None:
    put_job(tmp_path, POD)
    metadata.values[_WORKER] = index
    done = host.boot()
    assert done.returncode == 0, done.stderr
    worker = unit_of(host, "resumable-tf-worker")
    assert worker["ExecStart"].endswith(
        f"-m resumable_tf.tpu.pod_worker --task-index {index} --port 8470"
    )
    # The order is that of the workers' numbers.
    assert host.file("opt/resumable-tf/hosts.env").read_text() == (
        "export TPU_NAME=grpc://10.0.0.7:8470,grpc://10.0.0.5:8470,"
        "grpc://10.0.0.9:8470,grpc://10.0.0.6:8470\n"
    )
    is_training = host.file("etc/systemd/system/resumable-tf.service").exists()
    assert is_training == (index == "0")
    assert worker["KillSignal"] == "SIGTERM"
    # It answers for STOP_SECS after that, training's last save included.
    assert pod_worker.STOP_SECS < int(worker["TimeoutStopSec"]) <= 30
    if is_training:
        training = unit_of(host, "resumable-tf")
        assert int(training["TimeoutStopSec"]) <= pod_worker.STOP_SECS
        # Stopped in the reverse order.
        after = unit_of(host, "resumable-tf", "Unit")["After"].split()
        assert "resumable-tf-worker.service" in after
    assert unit_of(host, "resumable-tf-worker", "Unit")["After"] == (
        "network-online.target"
    )


def test_googles_own_worker_is_left_alone(
    host: TpuVm, tmp_path: Path, metadata: MetadataServer
) -> None:
    image = "tpu-vm-tf-2.18.0-pod-pjrt"
    put_job(tmp_path, dataclasses.replace(POD, runtime_version=image))
    metadata.values[_WORKER] = "0"
    assert host.boot().returncode == 0
    assert not host.file("etc/systemd/system/resumable-tf-worker.service").exists()
    assert host.file("etc/systemd/system/resumable-tf.service").exists()


def test_a_pod_host_without_a_number_does_not_take_itself_for_worker_0(
    host: TpuVm, tmp_path: Path
) -> None:
    put_job(tmp_path, POD)
    done = host.boot()
    assert done.returncode == 1 and "agent-worker-number" in done.stderr
    assert not [call for call in host.calls if call[0] == "systemctl"]


@pytest.mark.parametrize("endpoints", [None, "", "unknown:unknown:$(reboot)"])
def test_a_pod_host_that_does_not_know_the_others_does_not_start(
    host: TpuVm, tmp_path: Path, metadata: MetadataServer, endpoints: str | None
) -> None:
    put_job(tmp_path, POD)
    metadata.values[_WORKER] = "0"
    del metadata.values[_HOSTS]
    if endpoints is not None:
        metadata.values[_HOSTS] = endpoints
    done = host.boot()
    assert done.returncode == 1 and "worker-network-endpoints" in done.stderr
    assert not [call for call in host.calls if call[0] == "systemctl"]


def test_no_secret_is_printed_or_on_a_command_line(host: TpuVm, tmp_path: Path) -> None:
    put_job(tmp_path, SINGLE, HF_TOKEN="hunter2")
    done = host.boot()
    calls = host.calls
    shown = done.stdout + done.stderr + str(calls)
    assert done.returncode == 0 and [call for call in calls if call[0] == "curl"]
    assert "hunter2" not in shown and TOKEN not in shown


def test_a_vm_that_is_not_of_a_job_says_so(
    host: TpuVm, metadata: MetadataServer
) -> None:
    metadata.values.clear()
    done = host.boot()
    assert done.returncode == 1 and "tpu_vm_job.py" in done.stderr


def test_the_start_script_gives_training_its_environment(
    host: TpuVm, tmp_path: Path
) -> None:
    put_job(tmp_path, SINGLE, GREETING='it\'s "two"\nlines')
    host.boot()
    home = host.file("opt/resumable-tf")
    start = (home / "start.sh").read_text().replace("/opt/resumable-tf", str(home))
    program = home / "venv" / "bin" / "resumable-tf"
    program.write_text('#!/bin/sh\nprintf "%s|" "$GREETING" "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", start], capture_output=True, text=True, check=True
    )
    words = done.stdout.split("|")
    assert words[0] == 'it\'s "two"\nlines'
    assert words[1:4] == ["run", "--stop-secs", "25"]
    assert words[-3:-1] == ["--preset", "tiny"]
