"""A fake Google Cloud Storage over real HTTP, with faults on demand.

    with FakeGcs() as server:                   # in this process, on a free port
        server.plan.add(Fault("reset-after", match="POST /upload"))
        fsspec.filesystem("gs", endpoint_url=server.url, token="anon")

    python -m helpers.fake_gcs --port 0         # a process of its own; prints its URL

The part of the JSON API that gcsfs and TensorFlow's own client use: buckets, objects
with generations and preconditions, ranges, listings in pages, simple, multipart and
resumable uploads, rewrite, compose, batches. A server in another process takes its
faults by `POST /_fake/faults` and tells its log by `GET /_fake/log`.
"""

from __future__ import annotations

import argparse
import contextlib
import email.parser
import email.policy
import json
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from helpers.fake_gcs_faults import Fault, FaultPlan
from helpers.fake_gcs_store import (
    UPLOAD_QUANTUM,
    ApiError,
    Conditions,
    Store,
    StoredObject,
)

BUCKET = "bucket"
Reply = tuple[int, dict[str, str], bytes]


class FakeGcs:
    """The server; serves while its `with` block runs."""

    def __init__(self, *, port: int = 0, buckets: tuple[str, ...] = (BUCKET,)) -> None:
        self.store = Store(buckets)
        self.plan = FaultPlan()
        self._active = 0
        self._active_lock = threading.Lock()
        self.max_active = 0
        handler = type("_BoundHandler", (_Handler,), {"fake": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeGcs:
        threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Counts the requests that are answered at the same time."""
        with self._active_lock:
            self._active += 1
            self.max_active = max(self.max_active, self._active)
        try:
            yield
        finally:
            with self._active_lock:
                self._active -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: clients that are killed hang up in the middle."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: FakeGcs

    def log_message(self, *_: object) -> None:
        """Keeps the test's output clean; the plan has the log."""

    def _serve(self) -> None:
        body = self._body()
        with self.fake.active():
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        if path.startswith("/_fake/"):
            self._send(self._control(path, body))
            return
        fault = self.fake.plan.next(f"{self.command} {self.path}")
        kind = fault.kind if fault else ""
        if fault and kind == "slow":
            time.sleep(fault.secs)
        if fault and kind in ("status", "reset"):
            self._fail(fault)
            return
        api = Api(self.fake, query=dict(urllib.parse.parse_qsl(query)), fault=fault)
        try:
            reply = api.answer(self.command, path, dict(self.headers), body)
        except ApiError as error:
            reply = _json({"error": {"code": error.status, "message": str(error)}})
            reply = (error.status, *reply[1:])
        if fault and kind in ("status-after", "reset-after"):
            self._fail(fault)
            return
        self._send(reply, kind=kind)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = _serve

    def _body(self) -> bytes:
        # TensorFlow's client sends both headers at once.
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            body = bytearray()
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return bytes(body)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, reply: Reply, *, kind: str = "") -> None:
        status, headers, body = reply
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "truncate" and body:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
        elif kind == "slow":
            for start in range(0, len(body), max(1, len(body) // 8)):
                self.wfile.write(body[start : start + max(1, len(body) // 8)])
                time.sleep(0.01)
        else:
            self.wfile.write(body)

    def _fail(self, fault: Fault) -> None:
        if fault.kind.startswith("status"):
            reply = _json({"error": {"code": fault.status, "message": "injected"}})
            self._send((fault.status, *reply[1:]))
            return
        # Lingering for no time makes close() send a reset.
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.rfile.close()
        self.connection.close()

    def _control(self, path: str, body: bytes) -> Reply:
        plan = self.fake.plan
        if path == "/_fake/faults" and self.command == "POST":
            plan.add(Fault(**json.loads(body)))
        elif path == "/_fake/clear":
            plan.clear()
        elif path == "/_fake/copy":
            self.fake.store.copy_tree(**json.loads(body))
        return _json({"log": plan.log, "num_injected": plan.num_injected})


class Api:
    """Answers one request."""

    def __init__(
        self, fake: FakeGcs, *, query: dict[str, str], fault: Fault | None = None
    ) -> None:
        self.fake = fake
        self.store = fake.store
        self.query = query
        self.fault = fault
        self.conditions = Conditions.of(query)

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Reply:
        self.headers = {name.lower(): value for name, value in headers.items()}
        for pattern, action in _ROUTES:
            match = re.fullmatch(pattern, f"{method} {path}")
            if match:
                parts = [urllib.parse.unquote(part) for part in match.groups()]
                return action(self, *parts, **({"body": body} if body else {}))
        raise ApiError(501, f"not in this fake: {method} {path}")

    def get_bucket(self, bucket: str) -> Reply:
        if not self.store.has_bucket(bucket):
            raise ApiError(404, "The specified bucket does not exist.")
        return _json({"kind": "storage#bucket", "name": bucket, "location": "US"})

    def create_bucket(self, body: bytes) -> Reply:
        self.store.create_bucket(json.loads(body)["name"])
        return self.get_bucket(json.loads(body)["name"])

    def list_objects(self, bucket: str) -> Reply:
        is_stale = self.fault is not None and self.fault.kind == "stale"
        changes = self.fault.changes if is_stale else 0
        page = self.store.list(bucket, self.query, changes)
        answer: dict[str, Any] = {"kind": "storage#objects"}
        answer["items"] = [stored.resource() for stored in page.items]
        answer["prefixes"] = page.prefixes
        if page.next_token is not None:
            answer["nextPageToken"] = page.next_token
        return _json(answer)

    def get_object(self, bucket: str, name: str) -> Reply:
        if self.query.get("alt") == "media":
            return self.media(bucket, name)
        return _json(self._find(bucket, name).resource())

    def media(self, bucket: str, name: str) -> Reply:
        stored = self._find(bucket, name)
        hashes = f"crc32c={stored.crc32c},md5={stored.md5}"
        headers = {
            "Content-Type": stored.content_type,
            "X-Goog-Hash": hashes,
            "X-Goog-Generation": str(stored.generation),
        }
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range", ""))
        if not match:
            return 200, headers, stored.data
        size = len(stored.data)
        first, last = match.groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(int(last) + 1 if first and last else size, size)
        if start >= size:
            raise ApiError(416, "The requested range cannot be satisfied.")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return 206, headers, stored.data[start:stop]

    def delete_object(self, bucket: str, name: str) -> Reply:
        self.store.delete(bucket, name, self.conditions)
        return 204, {}, b""

    def copy(
        self, bucket: str, name: str, to_bucket: str, to_name: str, **_: Any
    ) -> Reply:
        source = self.store.get(bucket, name)
        fields = {"contentType": source.content_type, "metadata": source.metadata}
        copied = self.store.put(
            to_bucket, to_name, source.data, self.conditions, fields
        )
        resource = copied.resource()
        return _json(
            {"kind": "storage#rewriteResponse", "done": True, "resource": resource}
        )

    def move(self, bucket: str, name: str, to_name: str, **_: Any) -> Reply:
        reply = self.copy(bucket, name, bucket, to_name)
        self.store.delete(bucket, name)
        return _json(json.loads(reply[2])["resource"])

    def compose(self, bucket: str, name: str, body: bytes) -> Reply:
        sources = json.loads(body)["sourceObjects"]
        if len(sources) > 32:
            raise ApiError(400, "The number of source components exceeds 32.")
        parts = [self.store.get(bucket, source["name"]).data for source in sources]
        stored = self.store.put(bucket, name, b"".join(parts), self.conditions)
        return _json(stored.resource())

    def upload(self, bucket: str, body: bytes = b"") -> Reply:
        if "upload_id" in self.query:
            return self._continue_upload(body)
        kind = self.query.get("uploadType", "media")
        fields: dict[str, Any] = {"name": self.query.get("name")}
        if kind == "resumable":
            fields.update(json.loads(body or b"{}"))
            upload_id = self.store.begin_upload(bucket, fields, self.conditions)
            place = f"/upload/storage/v1/b/{urllib.parse.quote(bucket)}/o"
            location = (
                f"{self._base()}{place}?uploadType=resumable&upload_id={upload_id}"
            )
            return 200, {"Location": location, "X-GUploader-UploadID": upload_id}, b""
        data = body
        if kind == "multipart":
            more, data = _split_multipart(self.headers["content-type"], body)
            fields.update(more)
        else:
            fields["contentType"] = self.headers.get("content-type")
        stored = self.store.put(bucket, fields["name"], data, self.conditions, fields)
        return _json(stored.resource())

    def cancel_upload(self, bucket: str) -> Reply:
        self.store.cancel(self.query["upload_id"])
        return 499, {}, b""

    def batch(self, body: bytes) -> Reply:
        boundary = self.headers["content-type"].split("boundary=")[1].strip('"')
        out = []
        for part in body.decode().split(f"--{boundary}")[1:-1]:
            call = re.search(r"^(\w+) (\S+) HTTP", part, flags=re.MULTILINE)
            path, _, query = call[2].partition("?")
            inner = Api(self.fake, query=dict(urllib.parse.parse_qsl(query)))
            try:
                status, _, content = inner.answer(call[1], path, {}, b"")
            except ApiError as error:
                answer = {"error": {"code": error.status, "message": str(error)}}
                status, content = error.status, json.dumps(answer).encode()
            out.append(
                "--batch_x\r\nContent-Type: application/http\r\n\r\n"
                f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n\r\n"
                f"{content.decode()}\r\n"
            )
        text = "".join([*out, "--batch_x--\r\n"])
        return 200, {"Content-Type": "multipart/mixed; boundary=batch_x"}, text.encode()

    def _find(self, bucket: str, name: str) -> StoredObject:
        generation = int(self.query.get("generation", 0))
        return self.store.get(bucket, name, self.conditions, generation)

    def _base(self) -> str:
        # Behind the TLS proxy a client must come back the same way.
        host = self.headers["host"]
        return f"{'https' if 'googleapis.com' in host else 'http'}://{host}"

    def _continue_upload(self, body: bytes) -> Reply:
        span = self.headers.get("content-range", "bytes 0-0/*")
        match = re.fullmatch(r"bytes (?:\*|(\d+)-(\d+))/(\*|\d+)", span)
        if match is None:
            raise ApiError(400, f"Invalid Content-Range: {span}")
        offset = None if match[1] is None else int(match[1])
        total = None if match[3] == "*" else int(match[3])
        if self.fault is not None and self.fault.kind == "short":
            body = body[: len(body) // 2 // UPLOAD_QUANTUM * UPLOAD_QUANTUM]
        upload = self.store.append(self.query["upload_id"], offset, body, total)
        if upload.finished is not None:
            return _json(upload.finished.resource())
        have = len(upload.data)
        return 308, {"Range": f"bytes=0-{have - 1}"} if have else {}, b""


_OBJECT = r"/storage/v1/b/([^/]+)/o/([^/]+)"
_ROUTES: list[tuple[str, Any]] = [
    (r"GET /storage/v1/b/([^/]+)", Api.get_bucket),
    (r"POST /storage/v1/b", Api.create_bucket),
    (r"GET /storage/v1/b/([^/]+)/o/?", Api.list_objects),
    (rf"GET {_OBJECT}", Api.get_object),
    (rf"GET /download{_OBJECT}", Api.media),
    (rf"DELETE {_OBJECT}", Api.delete_object),
    (rf"POST {_OBJECT}/(?:rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)", Api.copy),
    (rf"POST {_OBJECT}/moveTo/o/([^/]+)", Api.move),
    (rf"POST {_OBJECT}/compose", Api.compose),
    (r"(?:POST|PUT) /upload/storage/v1/b/([^/]+)/o", Api.upload),
    (r"DELETE /upload/storage/v1/b/([^/]+)/o", Api.cancel_upload),
    (r"POST /batch/storage/v1", Api.batch),
    # TensorFlow reads media the way of the XML API.
    (r"(?:GET|HEAD) /(?!storage/|upload/)([^/]+)/(.+)", Api.media),
]


def _json(value: Mapping[str, Any]) -> Reply:
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    return 200, headers, json.dumps(value).encode()


def _split_multipart(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns the object's fields and its data, without decoding the latter."""
    message = email.parser.Parser(policy=email.policy.HTTP).parsestr(
        f"Content-Type: {content_type}\n\n", headersonly=True
    )
    mark = b"--" + str(message.get_param("boundary")).encode()
    start, end = body.index(mark) + len(mark), body.rindex(mark)
    line = b"\r\n" if body[start : start + 2] == b"\r\n" else b"\n"
    fields, data = body[start:end].split(line + mark, 1)
    content = data.split(line * 2, 1)[1].removesuffix(line)
    return json.loads(fields.split(line * 2, 1)[1]), content


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake Google Cloud Storage.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--bucket", default=BUCKET)
    settings = parser.parse_args()
    server = FakeGcs(port=settings.port, buckets=(settings.bucket,))
    print(server.url, flush=True)
    server._server.serve_forever()


if __name__ == "__main__":
    main()
