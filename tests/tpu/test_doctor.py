"""`resumable-tf tpu doctor`: each verdict from facts, and the facts from a machine."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_gcs import FakeGcs
from typer.testing import CliRunner

from resumable_tf.cli import tpu as command
from resumable_tf.errors import DeviceError
from resumable_tf.tpu import doctor
from resumable_tf.tpu.doctor import FAIL, NOT_APPLICABLE, OK, WARN, Facts, examine
from resumable_tf.tpu.doctor_facts import (
    Answer,
    gather_facts,
    metadata_client,
    try_bucket,
)
from resumable_tf.tpu.machine import Machine, TpuSettings, Wheel, check_machine

ROOT = Path(__file__).resolve().parents[2]
WHEEL = Wheel("tensorflow-tpu", "2.19.1", True, ("libtpu==0.0.10",))
CHIPS = ("/dev/accel0", "/dev/accel1")
POD = TpuSettings("grpc://10.0.0.2:8470")
READY = Facts(
    python=(3, 11, 7),
    machine=Machine((WHEEL,), "0.0.10", CHIPS, has_api_client=False),
    settings=TpuSettings(),
    followers={"tensorflow-text": "2.19.0", "tf-keras": "2.19.0"},
    accelerator="v5litepod-8",
    credentials="the VM's service account a@b",
    bucket="gs://bucket/run",
    clock_offset_secs=0.4,
)
BARE = Facts(
    python=(3, 11, 7),
    machine=Machine((Wheel("tensorflow", "2.21.0", True),), None, (), False),
    settings=TpuSettings(),
    followers={},
)


def verdicts(facts: Facts) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in examine(facts)}


def test_a_machine_that_is_ready_has_nothing_to_mend() -> None:
    findings = examine(READY)
    assert {finding.verdict for finding in findings} == {OK, NOT_APPLICABLE}
    assert not any(finding.mend for finding in findings)


def test_a_machine_without_a_tpu_has_no_failure_and_is_told_what_was_looked_for() -> (
    None
):
    findings = {finding.name: finding for finding in examine(BARE)}
    assert FAIL not in {finding.verdict for finding in findings.values()}
    assert "/dev/accel*" in findings["devices"].found
    assert "TPU_NAME names no node" in findings["devices"].found
    assert "no TPU on this machine" in findings["devices"].found


def with_machine(**changes: Any) -> Facts:
    machine = dataclasses.replace(READY.machine, **changes)
    return dataclasses.replace(READY, machine=machine)


def with_wheels(*others: Wheel, **changes: Any) -> Facts:
    return with_machine(wheels=(dataclasses.replace(WHEEL, **changes), *others))


def with_followers(**versions: str) -> Facts:
    changed = {name.replace("_", "-"): version for name, version in versions.items()}
    return dataclasses.replace(READY, followers={**READY.followers, **changed})


CPU = Wheel("tensorflow", "2.19.1", True)


@pytest.mark.parametrize(
    ("check", "facts", "verdict", "mend"),
    [
        ("wheels", with_wheels(CPU, is_intact=False), FAIL, "uninstall"),
        ("wheels", with_wheels(is_intact=False), FAIL, "uninstall"),
        ("wheels", with_wheels(CPU), WARN, "uninstall"),
        ("wheels", with_machine(wheels=(CPU,)), FAIL, "requirements-tpu"),
        ("wheels", with_wheels(version="2.15.0"), WARN, "2.19.1"),
        ("libtpu", with_machine(libtpu=None), FAIL, "libtpu==0.0.10"),
        ("libtpu", with_machine(libtpu="0.0.14"), FAIL, "libtpu==0.0.10"),
        ("versions", with_followers(tf_keras="2.21.0"), FAIL, "--no-deps"),
        ("versions", with_followers(tensorflow_text="2.18.0"), FAIL, "2.19"),
        ("versions", dataclasses.replace(READY, python=(3, 9, 1)), FAIL, "another"),
        ("versions", dataclasses.replace(READY, python=(3, 13, 0)), WARN, "3.12"),
        ("versions", with_machine(wheels=()), FAIL, "pip"),
        ("devices", with_machine(devices=()), FAIL, "restart"),
        (
            "pod settings",
            dataclasses.replace(READY, settings=TpuSettings("node")),
            FAIL,
            "pip install --no-deps cloud-tpu-client==0.10",
        ),
        (
            "pod settings",
            dataclasses.replace(READY, settings=POD, load_library="0"),
            OK,
            "",
        ),
        ("credentials", dataclasses.replace(READY, credentials=None), FAIL, "login"),
        (
            "credentials",
            dataclasses.replace(BARE, bucket="gs://b/run"),
            FAIL,
            "application-default",
        ),
        (
            "credentials",
            dataclasses.replace(READY, credentials_error="no such file"),
            FAIL,
            "mend the file",
        ),
        (
            "bucket",
            dataclasses.replace(READY, bucket_error="403"),
            FAIL,
            "roles/storage.objectUser",
        ),
        ("clock", dataclasses.replace(READY, clock_offset_secs=-11.0), WARN, "chrony"),
        ("clock", dataclasses.replace(READY, clock_offset_secs=301.0), FAIL, "chrony"),
        (
            "clock",
            dataclasses.replace(READY, clock_offset_secs=None),
            NOT_APPLICABLE,
            "",
        ),
    ],
)
def test_each_fault_has_its_verdict_and_a_mend(
    check: str, facts: Facts, verdict: str, mend: str
) -> None:
    finding = next(finding for finding in examine(facts) if finding.name == check)
    assert finding.verdict == verdict
    assert (mend in finding.mend) and bool(finding.mend) == bool(mend)


@pytest.mark.parametrize(
    ("libtpu", "verdict"),
    [
        ("0.0.13", FAIL),
        ("0.0.14", OK),
        ("0.0.31", OK),
        ("0.0.32", FAIL),
        ("0.0.42.1", FAIL),
    ],
)
def test_tensorflow_tpu_2_20_goes_with_a_range_of_libtpu(
    libtpu: str, verdict: str
) -> None:
    wanted = ("libtpu>=0.0.14", "libtpu<0.0.32")
    wheel = dataclasses.replace(WHEEL, version="2.20.0", libtpu=wanted)
    facts = with_machine(wheels=(wheel,), libtpu=libtpu)
    assert verdicts(facts)["libtpu"] == verdict


@pytest.mark.parametrize("settings", [TpuSettings(), POD, TpuSettings("node")])
@pytest.mark.parametrize("wheels", [(), (CPU,), (WHEEL,), (WHEEL, CPU)])
@pytest.mark.parametrize("is_intact", [True, False])
@pytest.mark.parametrize("libtpu", [None, "0.0.10", "0.0.14"])
def test_the_doctor_fails_what_training_refuses(
    settings: TpuSettings,
    wheels: tuple[Wheel, ...],
    is_intact: bool,
    libtpu: str | None,
) -> None:
    wheels = tuple(dataclasses.replace(wheel, is_intact=is_intact) for wheel in wheels)
    for devices in (CHIPS, ()) if not settings.is_local else (CHIPS,):
        machine = Machine(wheels, libtpu, devices, has_api_client=False)
        facts = dataclasses.replace(
            READY, machine=machine, settings=settings, accelerator=None
        )
        found = verdicts(facts)
        has_failed = FAIL in {found[n] for n in ("wheels", "libtpu", "pod settings")}
        try:
            check_machine(settings, machine)
        except DeviceError:
            assert has_failed
        else:
            # A pod's host also has a worker, which needs what the client does not.
            assert not has_failed or (devices and not settings.is_local)


def pinned() -> dict[str, str]:
    lines = (ROOT / "requirements-tpu.txt").read_text().splitlines()
    pairs = [
        line.split(";")[0].strip().split("==")
        for line in lines
        if line and not line.startswith("#")
    ]
    return dict(pairs)


def test_what_requirements_tpu_installs_passes_the_doctor() -> None:
    pins = pinned()
    wheel = dataclasses.replace(WHEEL, version=pins["tensorflow-tpu"])
    facts = dataclasses.replace(
        with_machine(wheels=(wheel,), libtpu=pins["libtpu"]),
        followers={name: pins[name] for name in READY.followers},
    )
    assert {verdicts(facts)[name] for name in ("wheels", "libtpu", "versions")} == {OK}


def test_requirements_tpu_holds_all_that_the_project_needs_but_tensorflow() -> None:
    import configparser
    import re

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    wanted = {re.split(r"[<>=]", line)[0] for line in lines if line}
    found = {name.replace("_", "-") for name in pinned()}
    missing = {name.replace("_", "-") for name in wanted} - found
    # The one that would be put over tensorflow-tpu.
    assert missing == {"tensorflow"} and "tensorflow" not in found


def found_with(**environment: str) -> dict[str, doctor.Finding]:
    home = {"HOME": "/none", **environment}
    facts = gather_facts(bucket=None, environment=home, ask=lambda _: None)
    return {finding.name: finding for finding in examine(facts)}


def test_what_training_sets_itself_is_not_asked_for() -> None:
    workers = "grpc://10.0.0.2:8470"
    assert found_with(TPU_NAME=workers)["pod settings"].verdict == OK
    wrong = found_with(TPU_NAME=workers, TPU_LOAD_LIBRARY="1")["pod settings"]
    assert wrong.verdict == FAIL and "unset TPU_LOAD_LIBRARY" in wrong.mend


def test_the_name_local_means_this_machine() -> None:
    assert found_with(TPU_NAME="local") == found_with()


class _Metadata(http.server.BaseHTTPRequestHandler):
    """A metadata server whose clock stands still."""

    account = "a@b"
    now = 1_700_000_000

    def do_GET(self) -> None:
        path = self.path.removeprefix("/computeMetadata/v1/instance/")
        is_asked_well = self.headers.get("Metadata-Flavor") == "Google"
        is_there = path == "service-accounts/default/email"
        value = self.account if is_asked_well and is_there else None
        body = (value or "").encode()
        self.send_response_only(200 if value else 404)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Date", formatdate(self.now, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def metadata_host() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Metadata)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_metadata_server_gives_account_and_clock(metadata_host: str) -> None:
    environment = {"GCE_METADATA_HOST": metadata_host}
    ask = metadata_client(environment, clock=lambda: _Metadata.now + 30.5)
    assert ask("service-accounts/default/email") == Answer("a@b", 30.0)
    assert ask("attributes/accelerator-type") == Answer(None, 30.0)
    facts = gather_facts(bucket=None, environment={"HOME": "/none"}, ask=ask)
    assert facts.accelerator is None
    assert facts.credentials == "the VM's service account a@b"
    assert verdicts(facts)["clock"] == WARN


def test_a_server_that_never_answers_is_asked_once_and_not_waited_for() -> None:
    import socket

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        host = f"127.0.0.1:{deaf.getsockname()[1]}"
        client = metadata_client({"GCE_METADATA_HOST": host}, timeout_secs=0.1)
        asked: list[str] = []

        def ask(path: str) -> Answer | None:
            asked.append(path)
            return client(path)

        facts = gather_facts(bucket=None, environment={"HOME": "/none"}, ask=ask)
    assert len(asked) == 1
    assert facts.credentials is None and facts.clock_offset_secs is None


def test_credentials_are_looked_for_as_google_s_libraries_do(tmp_path: Path) -> None:
    def found(**environment: str) -> tuple[str | None, str | None]:
        home = {"HOME": str(tmp_path), **environment}
        facts = gather_facts(bucket=None, environment=home, ask=lambda _: None)
        return facts.credentials, facts.credentials_error

    assert found() == (None, None)
    default = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    default.parent.mkdir(parents=True)
    default.write_text("{}")
    assert found() == (str(default), None)
    missing = str(tmp_path / "key.json")
    credentials, error = found(GOOGLE_APPLICATION_CREDENTIALS=missing)
    assert credentials is None and missing in str(error)


def test_a_bucket_is_tried_by_a_file_that_is_gone_afterwards(
    fake_gcs: FakeGcs, tmp_path: Path
) -> None:
    assert try_bucket("gs://bucket/run") is None
    assert try_bucket(str(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert "NotADirectoryError" in str(try_bucket(str(tmp_path / "file" / "run")))


def test_the_command_prints_json_and_ends_with_1_only_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for facts, code in ((BARE, 0), (dataclasses.replace(READY, bucket_error="x"), 1)):
        monkeypatch.setattr(command, "gather_facts", lambda bucket, f=facts: f)
        done = CliRunner().invoke(command.tpu, ["doctor", "--json"])
        assert done.exit_code == code
        findings = json.loads(done.output)
        assert [f["verdict"] for f in findings] == list(verdicts(facts).values())
        table = CliRunner().invoke(command.tpu, ["doctor"])
        assert table.exit_code == code
        assert all(finding["name"] in table.output for finding in findings)
