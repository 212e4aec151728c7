"""A fake of the Cloud TPU API, v1 and v2, over real HTTP on a free port.

    with FakeTpuApi() as api:
        api.node.update(state="PREEMPTED")
        TpuNode("node-1", project="p", zone="z", discovery_url=api.discovery_url, ...)

`api.node` is what the API tells of `projects/p/locations/z/nodes/node-1`; None means
that it was deleted. `api.fault` is an `Answer` of `fake_http` for all questions
about nodes, `api.discovery_fault` for the API's description.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from helpers.fake_http import Answer, FakeServer

NAME = "projects/p/locations/z/nodes/node-1"


def description(version: str, root: str) -> dict[str, Any]:
    """Returns the part of the API's description that asking for a node needs."""
    get = {
        "id": "tpu.projects.locations.nodes.get",
        "path": f"{version}/{{+name}}",
        "httpMethod": "GET",
        "parameterOrder": ["name"],
        "parameters": {
            "name": {"type": "string", "required": True, "location": "path"}
        },
        "response": {"$ref": "Node"},
    }
    nodes = {"nodes": {"methods": {"get": get}}}
    locations = {"locations": {"resources": nodes}}
    return {
        "kind": "discovery#restDescription",
        "id": f"tpu:{version}",
        "name": "tpu",
        "version": version,
        "rootUrl": f"{root}/",
        "servicePath": "",
        "baseUrl": f"{root}/",
        "batchPath": "batch",
        "schemas": {"Node": {"id": "Node", "type": "object", "properties": {}}},
        "resources": {"projects": {"resources": locations}},
    }


class FakeTpuApi(FakeServer):
    """The server; serves while its `with` block runs."""

    def __init__(self) -> None:
        self.node: dict[str, Any] | None = {"state": "READY", "health": "HEALTHY"}
        self.fault: Answer | None = None
        self.discovery_fault: Answer | None = None

    @property
    def root(self) -> str:
        return f"http://{self.host}"

    @property
    def discovery_url(self) -> str:
        return self.root + "/discovery?version={apiVersion}"

    def headers_of(self, answer: Answer) -> dict[str, str]:
        return {"Content-Type": "application/json"}

    def reply(self, path: str, headers: Mapping[str, str]) -> Answer:
        url = urllib.parse.urlsplit(path)
        if url.path == "/discovery":
            (version,) = urllib.parse.parse_qs(url.query)["version"]
            told = Answer(json.dumps(description(version, self.root)))
            return self.discovery_fault or told
        if url.path not in (f"/v1/{NAME}", f"/v2/{NAME}") or self.node is None:
            error = {"code": 404, "message": "not found", "status": "NOT_FOUND"}
            return self.fault or Answer(json.dumps({"error": error}), status=404)
        return self.fault or Answer(json.dumps(self.node))
