"""A fake of the Cloud TPU API, v1 and v2, over real HTTP on a free port.

    with FakeTpuApi() as api:
        api.node.update(state="PREEMPTED")
        TpuNode("node-1", project="p", zone="z", discovery_url=api.discovery_url, ...)

`api.node` is what the API tells of `projects/p/locations/z/nodes/node-1`; None means
that it was deleted. `api.fault` is an `Answer` of `fake_metadata` for all questions
about nodes, `api.discovery_fault` for the API's description.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from helpers.fake_metadata import Answer

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


class FakeTpuApi:
    """The server; serves while its `with` block runs."""

    def __init__(self) -> None:
        self.node: dict[str, Any] | None = {"state": "READY", "health": "HEALTHY"}
        self.fault: Answer | None = None
        self.discovery_fault: Answer | None = None
        self.requests: list[str] = []

    def __enter__(self) -> FakeTpuApi:
        self.ended = threading.Event()
        handler = type("_BoundHandler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.root = f"http://127.0.0.1:{self._server.server_port}"
        self.discovery_url = self.root + "/discovery?version={apiVersion}"
        threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        ).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def reply(self, path: str) -> Answer:
        url = urllib.parse.urlsplit(path)
        if url.path == "/discovery":
            (version,) = urllib.parse.parse_qs(url.query)["version"]
            told = Answer(json.dumps(description(version, self.root)))
            return self.discovery_fault or told
        if url.path not in (f"/v1/{NAME}", f"/v2/{NAME}") or self.node is None:
            error = {"code": 404, "message": "not found", "status": "NOT_FOUND"}
            return self.fault or Answer(json.dumps({"error": error}), status=404)
        return self.fault or Answer(json.dumps(self.node))


class _Handler(BaseHTTPRequestHandler):
    fake: FakeTpuApi

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self.fake.requests.append(self.path)
        answer = self.fake.reply(self.path)
        if answer.is_late:
            self.fake.ended.wait()
        if answer.is_reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            return
        body = answer.body.encode()
        length = len(body) if answer.claims is None else answer.claims
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True
