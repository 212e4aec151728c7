"""The state of a Cloud TPU node, asked through cloud-tpu-client.

    node = TpuNode("node-1", project="p", zone="us-central1-a", api="v2")
    node.status().kind            # NodeKind.READY, WAIT or GONE

Needs cloud-tpu-client. What the client gets wrong is done here: it fetches the API's
description at each call, knows v1 only, looks for project and zone at a fixed host,
calls deleted and stopped nodes recoverable, and reports every failure as ValueError.
"""

from __future__ import annotations

import enum
import http.client
import importlib
import logging
import os
import threading
from dataclasses import dataclass
from typing import Any

from resumable_tf.errors import NoticeError, UsageError
from resumable_tf.notices.metadata import MetadataClient
from resumable_tf.notices.notice import Notice, NoticePoller
from resumable_tf.tpu.machine import INSTALL_API_CLIENT

APIS = ("v1", "v2")
DELETED = "DELETED"
"""The state of a node that the API does not know."""

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_GONE = {
    DELETED: "it was deleted; create it again",
    "DELETING": "it is being deleted; create it again",
    "PREEMPTED": "it was preempted; delete it and create it again",
    "TERMINATED": "it was terminated; delete it and create it again",
}
_ADVICE = {
    "STOPPED": "it is stopped; start it",
    "STOPPING": "it is being stopped; start it afterwards",
}
_log = logging.getLogger(__name__)
_HEALTHY = (None, "HEALTHY", "HEALTH_UNSPECIFIED")


class NodeKind(enum.Enum):
    """What a node's state means for a training."""

    READY = "ready"
    WAIT = "wait"
    GONE = "gone"


@dataclass(frozen=True)
class NodeStatus:
    """A node as the API sees it.

    Attributes:
        kind: What it means.
        state: Of the API; `DELETED` if it knows no such node.
        health: Of the API; None if it says nothing.
        detail: What to do, or what is going on.
    """

    kind: NodeKind
    state: str
    health: str | None
    detail: str


def classify(state: str | None, health: str | None) -> NodeStatus:
    """Returns what a node's state and health mean; unknown ones mean waiting.

    Args:
        state: Of the API, v1 or v2.
        health: Of the API.
    """
    named = state or "STATE_UNSPECIFIED"
    if named in _GONE:
        return NodeStatus(NodeKind.GONE, named, health, _GONE[named])
    if named == "READY" and health in _HEALTHY:
        return NodeStatus(NodeKind.READY, named, health, "it can be used")
    detail = _ADVICE.get(named, f"state {named}, health {health}")
    return NodeStatus(NodeKind.WAIT, named, health, detail)


class TpuNode:
    """One node; may be used from several threads, one at a time."""

    def __init__(
        self,
        name: str,
        *,
        project: str | None = None,
        zone: str | None = None,
        api: str = "v2",
        timeout_secs: float = 10.0,
        credentials: Any = None,
        discovery_url: str | None = None,
    ) -> None:
        """Asks nothing yet.

        Args:
            name: Of the node.
            project: Its project; from the metadata server if None.
            zone: Its zone; from the metadata server if None.
            api: `v1` or `v2`.
            timeout_secs: For each wait of a question.
            credentials: Of google-auth; the application's default if None.
            discovery_url: Where the API is described; from `TPU_API_DISCOVERY_URL`,
                or Google's, if None.

        Raises:
            UsageError: If `api` is unknown, or cloud-tpu-client is not installed.
        """
        if api not in APIS:
            raise UsageError(f"--tpu-api {api!r} is none of {', '.join(APIS)}")
        self.name = name
        self._project, self._zone = project, zone
        self._api = api
        self._timeout_secs = timeout_secs
        self._credentials = credentials
        self._discovery_url = discovery_url or os.environ.get("TPU_API_DISCOVERY_URL")
        self._modules = _import_client()
        self._client: Any = None
        self._lock = threading.Lock()  # Guards _client; httplib2 is for one thread.

    def status(self) -> NodeStatus:
        """Asks for the node.

        Raises:
            NoticeError: If the API gives no answer, or a wrong one.
            UsageError: If it does not let us ask.
        """
        with self._lock:
            try:
                if self._client is None:
                    self._client = self._connect()
                # One question; state() and health() could tell of two moments.
                node = self._client._fetch_cloud_tpu_metadata()
            except NoticeError:
                raise
            except self._failures() as error:
                # What broke once may stay broken: a new connection at the next call.
                self._client = None
                return self._failed(error)
        if not isinstance(node, dict):
            raise NoticeError(f"TPU {self.name}: the API answered {node!r:.100}")
        return classify(node.get("state"), node.get("health"))

    def _connect(self) -> Any:
        """Returns a client that has the API's description.

        Raises:
            NoticeError: If project or zone can't be found out, or the API is not
                described.
        """
        modules = self._modules
        credentials = self._credentials
        if credentials is None:
            credentials, _ = modules.auth.default(scopes=[_SCOPE])
        transport = modules.httplib2.Http(timeout=self._timeout_secs)
        url = (
            {"discoveryServiceUrl": self._discovery_url} if self._discovery_url else {}
        )
        try:
            service = modules.discovery.build(
                "tpu",
                self._api,
                http=modules.auth_http.AuthorizedHttp(credentials, http=transport),
                cache_discovery=False,
                **url,
            )
        except (AttributeError, KeyError, TypeError) as error:
            # JSON that describes no API makes the library stumble.
            raise NoticeError(f"no description of the TPU API: {error!r}") from error
        metadata = MetadataClient()
        project = self._project or metadata.value("project/project-id")
        zone = self._zone or metadata.value("instance/zone").rsplit("/", 1)[-1]
        return modules.client.Client(
            tpu=self.name, project=project, zone=zone, service=service
        )

    def _failures(self) -> tuple[type[Exception], ...]:
        modules = self._modules
        return (
            ValueError,  # All that the client itself raises.
            OSError,
            http.client.HTTPException,
            modules.googleapi_errors.Error,
            modules.httplib2.HttpLib2Error,
            modules.auth_exceptions.GoogleAuthError,
        )

    def _failed(self, error: Exception) -> NodeStatus:
        """Returns the status that a failed question stands for.

        Raises:
            NoticeError: If it stands for none.
            UsageError: If the API does not let us ask.
        """
        cause = error.__context__ or error
        code = getattr(getattr(cause, "resp", None), "status", None)
        is_of_node = isinstance(error, ValueError) and cause is not error
        if code == http.HTTPStatus.NOT_FOUND and is_of_node:
            return classify(DELETED, None)
        text = f"TPU {self.name}: {type(cause).__name__}: {cause}"
        if code == http.HTTPStatus.FORBIDDEN:
            raise UsageError(f"{text}. The account needs roles/tpu.viewer") from error
        if isinstance(cause, self._modules.auth_exceptions.DefaultCredentialsError):
            raise UsageError(text) from error
        raise NoticeError(text) from error


def node_notice(status: NodeStatus) -> Notice | None:
    """Returns the notice that a training on the node gets; None while it may go on."""
    if status.kind is NodeKind.GONE or status.state in ("STOPPING", "STOPPED"):
        return Notice("tpu", f"the TPU node is {status.state}: {status.detail}")
    return None


def node_pollers(
    name: str,
    *,
    project: str | None = None,
    zone: str | None = None,
    every_secs: float = 15.0,
) -> list[NoticePoller]:
    """Returns the poller of a node; none if it can't be asked for, which is logged.

    Args:
        name: Of the node.
        project: Its project; from the metadata server if None.
        zone: Its zone; from the metadata server if None.
        every_secs: Between two questions.
    """
    try:
        node = TpuNode(name, project=project, zone=zone)
    except UsageError as error:
        _log.warning("TPU %s is not asked for preemption: %s", name, error)
        return []

    def read() -> Notice | None:
        try:
            return node_notice(node.status())
        except UsageError as error:  # No reason to end a training.
            raise NoticeError(str(error)) from error

    return [NoticePoller(read, every_secs=every_secs, source="the TPU API")]


@dataclass(frozen=True)
class _Modules:
    """The modules that cloud-tpu-client brings along."""

    client: Any
    discovery: Any
    googleapi_errors: Any
    httplib2: Any
    auth: Any
    auth_exceptions: Any
    auth_http: Any


def _import_client() -> _Modules:
    """Imports the client.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        modules = _Modules(
            client=importlib.import_module("cloud_tpu_client"),
            discovery=importlib.import_module("googleapiclient.discovery"),
            googleapi_errors=importlib.import_module("googleapiclient.errors"),
            httplib2=importlib.import_module("httplib2"),
            auth=importlib.import_module("google.auth"),
            auth_exceptions=importlib.import_module("google.auth.exceptions"),
            auth_http=importlib.import_module("google_auth_httplib2"),
        )
    except ImportError as error:
        raise UsageError(
            f"the state of a TPU node can't be asked for: {error}.\n"
            f"Install cloud-tpu-client: {INSTALL_API_CLIENT}"
        ) from error
    flags = importlib.import_module("absl.flags").FLAGS
    if not flags.is_parsed():
        # The client reads a flag of its own. A program that has flags still parses
        # them later: nothing is checked here.
        flags.mark_as_parsed()
    return modules
