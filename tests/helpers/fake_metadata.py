"""A fake of Google's metadata server, over real HTTP on a free port.

    with FakeMetadata() as server:
        server.values["instance/preempted"] = "TRUE"
        client = MetadataClient(server.host)

Wrong servers: an `Answer` in place of a value has another status, other headers, comes
late or breaks off.
"""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PREFIX = "/computeMetadata/v1/"


@dataclass(frozen=True)
class Answer:
    """What the server says to one key.

    Attributes:
        body: The text.
        status: Of HTTP.
        is_google: Whether the header is sent that tells a metadata server.
        is_late: Whether the answer comes only when the server ends.
        is_reset: Whether the connection is reset in place of an answer.
        claims: Length that is claimed, if it is not the true one.
    """

    body: str = ""
    status: int = 200
    is_google: bool = True
    is_late: bool = False
    is_reset: bool = False
    claims: int | None = None


@dataclass
class FakeMetadata:
    """The server; a machine that goes on, until `values` says otherwise."""

    values: dict[str, str | Answer] = field(
        default_factory=lambda: {
            "instance/preempted": "FALSE",
            "instance/maintenance-event": "NONE",
            "project/project-id": "project-1",
            "instance/zone": "projects/123/zones/us-central1-a",
        }
    )
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> FakeMetadata:
        self.ended = threading.Event()
        handler = type("_BoundHandler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        ).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeMetadata

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        fake = self.fake
        key = self.path.removeprefix(PREFIX).partition("?")[0]
        fake.requests.append(self.path)
        if self.headers.get("Metadata-Flavor") != "Google":
            self.answer(Answer("Missing Metadata-Flavor:Google header.", status=403))
            return
        value = fake.values.get(key, Answer("not found", status=404))
        self.answer(Answer(value) if isinstance(value, str) else value)

    def answer(self, answer: Answer) -> None:
        if answer.is_late:
            self.fake.ended.wait()
        if answer.is_reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            return
        body = answer.body.encode()
        self.send_response(answer.status)
        if answer.is_google:
            self.send_header("Metadata-Flavor", "Google")
        length = len(body) if answer.claims is None else answer.claims
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True
