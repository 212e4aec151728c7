"""A TPU that is not there, or can't be used, is one plain error."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.workers import free_ports

from resumable_tf.errors import DeviceError, UsageError
from resumable_tf.tpu.machine import (
    INSTALL_API_CLIENT,
    TpuSettings,
    check_machine,
    find_machine,
    prepare_environment,
    settings_from,
)
from resumable_tf.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "tensorflow/libtensorflow_cc.so.2"
LOCAL = TpuSettings()


def install(
    site: Path, name: str, version: str, *, needs: str = "", **files: bytes
) -> None:
    """Installs a package as pip does: files, and a RECORD of them."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    text = f"Name: {name}\nVersion: {version}\n{requires}"
    (info / "METADATA").write_text(text)
    lines = []
    for file, content in files.items():
        path = site / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
        lines.append(f"{file},sha256={digest.rstrip('=')},{len(content)}\n")
    (info / "RECORD").write_text("".join(lines))


def problem(tmp_path: Path, settings: TpuSettings = LOCAL) -> str:
    """Returns the error for the packages and devices below a directory."""
    machine = find_machine(packages=[str(tmp_path / "site")], devices=tmp_path / "dev")
    with pytest.raises(DeviceError) as error:
        check_machine(settings, machine)
    return str(error.value)


def add_chips(tmp_path: Path, *names: str) -> None:
    for name in names:
        (tmp_path / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / name).touch()


def install_tpu(
    tmp_path: Path, version: str = "2.19.1", *, needs: str = "", libtpu: str = "0.0.10"
) -> None:
    site, files = tmp_path / "site", {LIBRARY: b"built for TPUs"}
    install(site, "tensorflow-tpu", version, needs=needs, **files)
    install(site, "libtpu", libtpu)


def test_a_machine_without_chips_has_no_tpu(tmp_path: Path) -> None:
    install_tpu(tmp_path)
    message = problem(tmp_path)
    assert "this machine has no TPU" in message
    assert "/dev/vfio/*: no chip" in message and "libtpu: 0.0.10" in message


@pytest.mark.parametrize("other", ["accel/accel0", "vfio/vfio"])
def test_other_accelerators_are_no_chips(tmp_path: Path, other: str) -> None:
    add_chips(tmp_path, other)
    install_tpu(tmp_path)
    assert "this machine has no TPU" in problem(tmp_path)


@pytest.mark.parametrize("chip", ["accel0", "vfio/0"])
def test_chips_with_the_right_wheels_are_accepted(tmp_path: Path, chip: str) -> None:
    add_chips(tmp_path, chip)
    install_tpu(tmp_path, needs="libtpu==0.0.10")
    where = {"packages": [str(tmp_path / "site")], "devices": tmp_path / "dev"}
    check_machine(LOCAL, find_machine(**where))


@pytest.mark.parametrize("is_smaller", [True, False])
def test_the_cpu_wheel_put_over_the_tpu_wheel_is_noticed(
    tmp_path: Path, is_smaller: bool
) -> None:
    add_chips(tmp_path, "accel0")
    install_tpu(tmp_path)
    content = b"CPU" if is_smaller else b"built for CPUs, and larger"
    install(tmp_path / "site", "tensorflow", "2.19.1", **{LIBRARY: content})
    message = problem(tmp_path)
    assert "tensorflow was installed over tensorflow-tpu" in message
    assert "tensorflow-tpu 2.19.1 (its files were overwritten)" in message
    assert "pip install --no-deps --requirement requirements-tpu.txt" in message


def test_chips_with_only_the_cpu_wheel_are_told_how_to_install(tmp_path: Path) -> None:
    add_chips(tmp_path, "accel0")
    install(tmp_path / "site", "tensorflow", "2.21.0", **{LIBRARY: b"for CPUs"})
    message = problem(tmp_path)
    assert "not the one for TPUs" in message and "tensorflow 2.21.0" in message
    assert "pip install --no-deps --requirement requirements-tpu.txt" in message


@pytest.mark.parametrize(
    ("wheel", "needs", "libtpu", "unmet"),
    [
        ("2.19.1", "libtpu==0.0.10", "0.0.14", "needs libtpu==0.0.10"),
        ("2.20.0", "libtpu>=0.0.14", "0.0.13", "needs libtpu>=0.0.14"),
        ("2.20.0", "libtpu>=0.0.14", "0.0.32", "needs libtpu<0.0.32"),
        ("2.20.0", "", "0.1.0.dev2", "needs libtpu<0.0.32"),
    ],
)
def test_a_libtpu_that_ends_the_process_at_import_is_refused(
    tmp_path: Path, wheel: str, needs: str, libtpu: str, unmet: str
) -> None:
    add_chips(tmp_path, "accel0")
    install_tpu(tmp_path, wheel, needs=needs, libtpu=libtpu)
    message = problem(tmp_path)
    assert f"tensorflow-tpu {wheel} {unmet};" in message
    assert f"libtpu: {libtpu}" in message


def test_a_missing_driver_is_named(tmp_path: Path) -> None:
    add_chips(tmp_path, "accel0")
    install(tmp_path / "site", "tensorflow-tpu", "2.19.1", **{LIBRARY: b"for TPUs"})
    assert "the package libtpu, the chips' driver, is missing" in problem(tmp_path)


def test_a_nodes_name_needs_the_client_of_its_api(tmp_path: Path) -> None:
    message = problem(tmp_path, TpuSettings(name="node-1"))
    # An extra of this project would bring the CPU's TensorFlow over the TPU's.
    assert "resumable-tf[" not in message
    assert INSTALL_API_CLIENT in message
    assert "--tpu grpc://HOST:8470" in message
    install(tmp_path / "site", "google-api-python-client", "2.202.0")
    assert INSTALL_API_CLIENT in problem(tmp_path, TpuSettings(name="node-1"))
    install(tmp_path / "site", "oauth2client", "4.1.3")
    check_machine(
        TpuSettings(name="node-1"), find_machine(packages=[str(tmp_path / "site")])
    )


def test_the_environment_names_the_tpu_unless_a_flag_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TPU_NAME", "node-1")
    assert settings_from(None).name == "node-1"
    assert settings_from("local").is_local
    monkeypatch.delenv("TPU_NAME")
    assert settings_from(None).is_local


@pytest.mark.parametrize("name", ["local", "node-1", "grpc://10.0.0.2:8470"])
def test_only_the_client_of_a_pod_leaves_the_driver_alone(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TPU_LOAD_LIBRARY", "")
    monkeypatch.delenv("TPU_LOAD_LIBRARY")
    prepare_environment(TpuSettings(name=name))
    expected = None if name == "local" else "0"
    assert os.environ.get("TPU_LOAD_LIBRARY") == expected


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"tpu": "local"}, "--tpu local has no effect with --strategy one"),
        ({"tpu_zone": "z"}, "--tpu-zone z has no effect with --strategy one"),
        ({"gcp_project": "p"}, "--gcp-project p has no effect with --strategy one"),
        (
            {"strategy": "tpu", "tpu": "local", "tpu_zone": "z"},
            "--tpu-zone z has no effect with --tpu local",
        ),
        (
            {"strategy": "tpu", "tpu": "grpc://h:1", "gcp_project": "p"},
            "--gcp-project p has no effect with --tpu grpc://h:1",
        ),
    ],
)
def test_flags_without_effect_are_refused(values: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        TrainConfig(run_dir="r", **values)


def test_the_tpu_is_no_part_of_a_runs_identity() -> None:
    flags = {"strategy": "tpu", "tpu": "node", "tpu_zone": "z", "gcp_project": "p"}
    one, other = TrainConfig(run_dir="r"), TrainConfig(run_dir="r", **flags)
    model = one.model_config(100)
    assert one.fingerprinted(model) == other.fingerprinted(model)


def test_the_script_refuses_a_missing_tpu_before_it_imports_tensorflow(
    tmp_path: Path,
) -> None:
    code = (
        "import runpy, sys; sys.argv = ['x', '--strategy', 'tpu', '--tpu', 'local',"
        f"'--run-dir', {str(tmp_path / 'run')!r}]\n"
        "try: runpy.run_path('scripts/train_translation.py', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    if find_machine().devices:
        pytest.skip("this machine has a TPU, or something that looks like one")
    assert done.stdout.split() == ["69", "False"], done.stderr
    assert "DeviceError: --strategy tpu --tpu local: this machine has no TPU" in (
        done.stderr
    )
    assert not (tmp_path / "run").exists()


def test_workers_that_do_not_answer_are_named() -> None:
    from resumable_tf.tpu.cluster import connect, resolve

    address = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(DeviceError, match=f"1 of 1 TPU workers .* {address}"):
        connect(resolve(TpuSettings(name=f"grpc://{address}")))


def test_a_node_that_nobody_knows_is_a_device_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from resumable_tf.tpu.cluster import resolve

    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(DeviceError, match=r"--tpu node-1: its addresses can't be"):
        resolve(TpuSettings(name="node-1"))


@pytest.mark.parametrize(
    "name", ["ApplicationDefaultCredentialsError", "HttpError", "ServerNotFoundError"]
)
def test_whatever_tensorflows_api_client_raises_is_a_device_error(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of oauth2client, googleapiclient and httplib2: no kind of OSError or the like."""
    import tensorflow as tf

    from resumable_tf.tpu.cluster import resolve

    failure = type(name, (Exception,), {})("403, says the API")

    class Resolver:
        def __init__(self, **_: object) -> None: ...

        def cluster_spec(self) -> None:
            raise failure

    resolvers = tf.distribute.cluster_resolver
    monkeypatch.setattr(resolvers, "TPUClusterResolver", Resolver)
    with pytest.raises(
        DeviceError, match=f"(?s){name}: 403, .*zone: z, .*Check"
    ) as one:
        resolve(TpuSettings(name="node-1", zone="z", project="p"))
    assert one.value.__cause__ is failure
