"""Leads TensorFlow's own gs:// client to a fake Google Cloud Storage.

    with FakeGcs() as server, TlsProxy(server.url) as proxy:
        subprocess.run([...], env={**os.environ, **proxy.environment})

The client knows its servers by name and speaks TLS only. So this is an HTTPS proxy on
the loopback that ends TLS with a certificate of its own making, which the client is
told to trust, and passes the bytes on. No name is looked up outside.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import tempfile
import threading
import urllib.parse
from pathlib import Path
from typing import Any

import trustme

_HOSTS = ("www.googleapis.com", "storage.googleapis.com")


class TlsProxy:
    """The proxy; serves while its `with` block runs."""

    def __init__(self, target_url: str) -> None:
        target = urllib.parse.urlparse(target_url)
        self.target = (target.hostname, target.port)
        self._scratch = tempfile.TemporaryDirectory()
        authority = trustme.CA()
        certificates = Path(self._scratch.name) / "ca.pem"
        authority.cert_pem.write_to_path(str(certificates))
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*_HOSTS).configure_cert(self.tls)
        handler = type("_BoundHandler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.environment = {
            "https_proxy": url,
            "HTTPS_PROXY": url,
            "CURL_CA_BUNDLE": str(certificates),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "NO_GCE_CHECK": "true",
            "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "10000",
        }

    def __enter__(self) -> TlsProxy:
        threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._scratch.cleanup()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a client that ends hangs up."""


class _Handler(socketserver.BaseRequestHandler):
    proxy: TlsProxy

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(1)
        host = head.split()[1].decode().partition(":")[0]
        if not head.startswith(b"CONNECT") or host not in _HOSTS:
            self.request.sendall(b"HTTP/1.1 403 not here\r\n\r\n")
            return
        self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with (
            self.proxy.tls.wrap_socket(self.request, server_side=True) as client,
            socket.create_connection(self.proxy.target) as server,
        ):
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join(1.0)


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Copies bytes until one side hangs up."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
