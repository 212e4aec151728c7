"""cloud-tpu-client itself, against a fake TPU API: every state, wrong and slow answers.

Needs cloud-tpu-client, which no extra can bring (see `INSTALL_API_CLIENT`):
`make test-tpu-client` makes an environment of its own.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_http import Answer
from helpers.fake_metadata import FakeMetadata
from helpers.fake_tpu_api import FakeTpuApi

from resumable_tf.errors import NoticeError, UsageError
from resumable_tf.notices import tpu_node
from resumable_tf.notices.readiness import ReadinessWait
from resumable_tf.notices.tpu_node import (
    APIS,
    NodeKind,
    NodeStatus,
    TpuNode,
    classify,
    node_pollers,
)
from resumable_tf.supervising.events import Events
from resumable_tf.supervising.supervisor import Settings, Supervisor

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("cloud_tpu_client", reason="cloud-tpu-client is not installed")

# The enumerations of both versions of the API, and values that neither has.
STATES = """
STATE_UNSPECIFIED CREATING READY RESTARTING REIMAGING DELETING REPAIRING STOPPED
STOPPING STARTING PREEMPTED TERMINATED HIDING HIDDEN UNHIDING UNKNOWN DREAMING
""".split()
HEALTHS = (
    *(None, "HEALTH_UNSPECIFIED", "HEALTHY", "TIMEOUT", "UNHEALTHY_TENSORFLOW"),
    *("UNHEALTHY_MAINTENANCE", "UNHEALTHY", "DREAMING"),
)


@pytest.fixture
def api() -> Iterator[FakeTpuApi]:
    with FakeTpuApi() as fake:
        yield fake


def node_of(server: FakeTpuApi, **changes: Any) -> TpuNode:
    from google.oauth2.credentials import Credentials

    settings = {
        "project": "p",
        "zone": "z",
        "credentials": Credentials("token"),
        "discovery_url": server.discovery_url,
        "timeout_secs": 60.0,
        **changes,
    }
    return TpuNode("node-1", **settings)


@pytest.mark.parametrize("version", APIS)
def test_every_state_and_health_arrives_and_the_api_is_described_once(
    api: FakeTpuApi, version: str
) -> None:
    node = node_of(api, api=version)
    for state, health in itertools.product(STATES, HEALTHS):
        api.node = {"state": state}
        if health is not None:
            api.node["health"] = health
        assert node.status() == classify(state, health)
    asked = [path for path in api.requests if path.startswith("/discovery")]
    assert asked == [f"/discovery?version={version}"]
    assert len(api.requests) == 1 + len(STATES) * len(HEALTHS)
    assert api.requests[-1].startswith(f"/{version}/projects/p/locations/z/nodes/")


@pytest.mark.parametrize("version", APIS)
def test_a_deleted_node_is_gone_and_one_that_is_created_again_is_there(
    api: FakeTpuApi, version: str
) -> None:
    node = node_of(api, api=version)
    assert node.status().kind is NodeKind.READY
    api.node = None
    assert (node.status().kind, node.status().state) == (NodeKind.GONE, "DELETED")
    api.node = {"state": "CREATING"}
    assert node.status().kind is NodeKind.WAIT
    api.node = {"state": "READY"}
    assert node.status().kind is NodeKind.READY


FAULTS = {
    "unauthorized": Answer("{}", status=401),
    "server error": Answer("oops", status=500),
    "unavailable": Answer("{}", status=503),
    "too many": Answer("{}", status=429),
    "no json": Answer("<html>"),
    "empty": Answer(""),
    "a list": Answer("[]"),
    "late": Answer("{}", is_late=True),
    "reset": Answer("{}", is_reset=True),
    "cut off": Answer('{"state": "READY"}', claims=500),
}


@pytest.mark.parametrize("where", ["fault", "discovery_fault"])
@pytest.mark.parametrize("kind", list(FAULTS))
def test_a_wrong_or_missing_answer_is_an_error_and_the_next_good_one_counts(
    api: FakeTpuApi, kind: str, where: str
) -> None:
    node = node_of(api, timeout_secs=0.2 if kind in ("late", "cut off") else 60.0)
    setattr(api, where, FAULTS[kind])
    with pytest.raises(NoticeError):
        node.status()
    setattr(api, where, None)
    assert node.status().kind is NodeKind.READY


def test_a_refusal_is_no_state_of_the_node(api: FakeTpuApi) -> None:
    api.fault = Answer('{"error": {"message": "denied"}}', status=403)
    with pytest.raises(UsageError, match=r"roles/tpu\.viewer"):
        node_of(api).status()


def test_an_api_without_this_version_is_an_error_and_not_a_deleted_node(
    api: FakeTpuApi,
) -> None:
    api.discovery_fault = Answer("{}", status=404)
    with pytest.raises(NoticeError):
        node_of(api).status()


def test_an_api_that_is_not_there_is_an_error() -> None:
    with FakeTpuApi() as gone:
        node = node_of(gone)
    with pytest.raises(NoticeError, match="node-1"):
        node.status()


def test_project_and_zone_come_from_the_metadata_server_that_is_named(
    api: FakeTpuApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client itself asks a fixed host only."""
    with FakeMetadata() as metadata:
        metadata.values["project/project-id"] = "p"
        metadata.values["instance/zone"] = "projects/17/zones/z"
        monkeypatch.setenv("GCE_METADATA_HOST", metadata.host)
        node = node_of(api, project=None, zone=None)
        assert node.status().kind is NodeKind.READY


def test_the_description_may_be_named_by_the_environment(
    api: FakeTpuApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPU_API_DISCOVERY_URL", api.discovery_url)
    assert node_of(api, discovery_url=None).status().kind is NodeKind.READY


def test_the_clients_own_methods_work_since_its_flags_are_parsed(
    api: FakeTpuApi,
) -> None:
    node = node_of(api)
    node.status()
    assert node._client.recoverable() is True
    assert node._client.state() == "READY"


def test_a_training_hears_of_its_node_and_a_refusal_does_not_end_it(
    api: FakeTpuApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tpu_node, "TpuNode", lambda name, **where: node_of(api))
    (poller,) = node_pollers("node-1")
    assert poller.poll_once() is None
    api.fault = Answer("{}", status=403)
    assert poller.poll_once() is None
    assert "roles/tpu.viewer" in caplog.text
    api.fault, api.node = None, {"state": "PREEMPTED"}
    assert poller.poll_once().name == "tpu"


@pytest.mark.parametrize("version", APIS)
@pytest.mark.parametrize("end", ["READY", "PREEMPTED", "DELETED"])
def test_a_supervised_program_is_started_when_its_node_is_healthy_again(
    api: FakeTpuApi,
    version: str,
    end: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    told: list[str] = []

    def tell(status: NodeStatus | NoticeError) -> None:
        """Notes a change, and brings about the next one."""
        assert isinstance(status, NodeStatus)
        told.append(status.state)
        if told == ["READY"]:  # The first start; the program is preempted.
            api.node = {"state": "REPAIRING"}
        elif status.state == "REPAIRING":
            api.node = {"state": "READY", "health": "UNHEALTHY_MAINTENANCE"}
        elif end == "DELETED":
            api.node = None
        else:
            api.node = {"state": end, "health": "HEALTHY"}

    status = node_of(api, api=version).status
    wait = ReadinessWait(status, tell=tell, timeout_secs=60.0, every_secs=0.01)
    program = (sys.executable, "-m", "helpers.supervised")
    command = [*program, str(tmp_path), "75@3", "done"]
    settings, events = Settings(command=command, poll_secs=0.02), Events(len)
    supervisor = Supervisor(settings, events, wait_until_ready=wait)
    assert supervisor.run() == (0 if end == "READY" else 75)
    assert told == ["READY", "REPAIRING", "READY", end]
    assert (tmp_path / "starts").read_text() == ("xx" if end == "READY" else "x")
