"""What the fakes of HTTP services share: a server on a free port, and wrong answers."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a server says to one question.

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


class FakeServer:
    """Serves while its `with` block runs; keeps the paths that were asked for."""

    def reply(self, path: str, headers: Mapping[str, str]) -> Answer:
        """Returns the answer to a question."""
        raise NotImplementedError

    def headers_of(self, answer: Answer) -> dict[str, str]:
        """Returns the headers beside the length."""
        raise NotImplementedError

    def __enter__(self) -> Any:
        self.requests: list[str] = []
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
    fake: FakeServer

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        fake = self.fake
        fake.requests.append(self.path)
        answer = fake.reply(self.path, self.headers)
        if answer.is_late:
            fake.ended.wait()
        if answer.is_reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            return
        body = answer.body.encode()
        length = len(body) if answer.claims is None else answer.claims
        self.send_response(answer.status)
        for name, value in fake.headers_of(answer).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True
