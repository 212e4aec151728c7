"""The fake Google Cloud Storage keeps the promises that the proofs rest on.

Each is one of the JSON API's: preconditions, pages, uploads that become visible at
their end, ranges, checksums. Guards against a proof against a server that is too kind.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import gcsfs
import pytest
import requests
from helpers.fake_gcs import FakeGcs
from helpers.fake_gcs_faults import Fault
from helpers.fake_gcs_store import UPLOAD_QUANTUM

TESTS = Path(__file__).parent.parent


class Client:
    """The JSON API by hand."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects = f"{url}/storage/v1/b/bucket/o"
        self.uploads = f"{url}/upload/storage/v1/b/bucket/o"
        self.session = requests.Session()

    def put(self, name: str, data: bytes, **query: Any) -> requests.Response:
        query = {"uploadType": "media", "name": name, **query}
        return self.session.post(self.uploads, params=query, data=data)

    def get(self, path: str = "", **query: Any) -> requests.Response:
        headers = query.pop("headers", None)
        return self.session.get(self.objects + path, params=query, headers=headers)


@pytest.fixture
def server() -> Iterator[FakeGcs]:
    with FakeGcs() as fake:
        yield fake


@pytest.fixture
def client(server: FakeGcs) -> Iterator[Client]:
    one = Client(server.url)
    with one.session:
        yield one


def test_preconditions_refuse_and_leave_the_object(client: Client) -> None:
    first = client.put("a", b"1", ifGenerationMatch=0).json()
    assert client.put("a", b"2", ifGenerationMatch=0).status_code == 412
    assert client.put("a", b"2", ifGenerationMatch=1).status_code == 412
    generation = first["generation"]
    assert client.put("a", b"2", ifGenerationNotMatch=generation).status_code == 412
    assert client.get("/a", alt="media").content == b"1"
    second = client.put("a", b"3", ifGenerationMatch=generation).json()
    assert int(second["generation"]) > int(generation)
    place = f"{client.objects}/a"
    old, new = ({"ifGenerationMatch": of["generation"]} for of in (first, second))
    assert client.session.delete(place, params=old).status_code == 412
    assert client.session.delete(place, params=new).status_code == 204
    assert client.get("/a").status_code == 404


def test_checksums_are_told_and_checked(client: Client) -> None:
    resource = client.put("a", b"123456789").json()
    assert base64.b64decode(resource["crc32c"]).hex() == "e3069283"
    session = client.session.post(
        client.uploads,
        params={"uploadType": "resumable", "name": "a"},
        json={"name": "a", "crc32c": "AAAAAA=="},
    ).headers["Location"]
    span = {"Content-Range": "bytes 0-0/1"}
    assert client.session.put(session, data=b"x", headers=span).status_code == 400
    assert client.get("/a", alt="media").content == b"123456789"


def test_ranges(client: Client) -> None:
    client.put("a", b"0123456789")

    def part(span: str) -> requests.Response:
        return client.get("/a", alt="media", headers={"Range": f"bytes={span}"})

    assert (part("2-4").status_code, part("2-4").content) == (206, b"234")
    assert part("8-99").headers["Content-Range"] == "bytes 8-9/10"
    assert part("-3").content == b"789"
    assert part("10-").status_code == 416


def test_listings_come_in_pages_with_prefixes(client: Client) -> None:
    for name in ("p/1", "p/2", "p/d/3", "p/d/4", "q"):
        client.put(name, b"")
    names, token, pages = [], None, 0
    while pages == 0 or token:
        query = {"pageToken": token} if token else {}
        page = client.get(prefix="p/", delimiter="/", maxResults=2, **query).json()
        names += [item["name"] for item in page["items"]] + page["prefixes"]
        token, pages = page.get("nextPageToken"), pages + 1
    assert (names, pages) == (["p/1", "p/2", "p/d/"], 2)


def test_a_resumable_upload_is_invisible_until_its_end(client: Client) -> None:
    data = os.urandom(2 * UPLOAD_QUANTUM + 5)
    query = {"uploadType": "resumable", "name": "a"}
    place = client.session.post(client.uploads, params=query).headers["Location"]

    def send(span: str, body: bytes = b"") -> requests.Response:
        headers = {"Content-Range": f"bytes {span}"}
        return client.session.put(place, data=body, headers=headers)

    cut = UPLOAD_QUANTUM
    first = send(f"0-{cut - 1}/{len(data)}", data[:cut])
    assert (first.status_code, first.headers["Range"]) == (308, f"bytes=0-{cut - 1}")
    assert send(f"*/{len(data)}").headers["Range"] == f"bytes=0-{cut - 1}"
    assert client.get("/a").status_code == 404
    # What is there already is ignored.
    last = send(f"0-{len(data) - 1}/{len(data)}", data)
    assert last.status_code == 200
    assert client.get("/a", alt="media").content == data
    assert send(f"*/{len(data)}").json() == last.json()


def test_faults_hit_as_often_as_planned(server: FakeGcs, client: Client) -> None:
    server.plan.add(Fault("status", match="alt=media", skip=1, times=2, status=429))
    client.put("a", b"12345678")
    codes = [client.get("/a", alt="media").status_code for _ in range(4)]
    assert codes == [200, 429, 429, 200]
    server.plan.add(Fault("reset-after", match="POST /upload"))
    with pytest.raises(requests.ConnectionError):
        client.put("a", b"lost")
    assert client.get("/a", alt="media").content == b"lost"
    server.plan.add(Fault("reset", match="POST /upload"))
    with pytest.raises(requests.ConnectionError):
        client.put("a", b"never")
    server.plan.add(Fault("truncate", match="alt=media"))
    with pytest.raises(requests.RequestException):
        client.get("/a", alt="media")
    server.plan.add(Fault("stale", match="/o\\?prefix"))
    client.put("b", b"")
    assert [item["name"] for item in client.get(prefix="").json()["items"]] == ["a"]
    assert server.plan.num_injected == 6


def test_batches_and_copies_of_gcsfs(server: FakeGcs) -> None:
    files = gcsfs.GCSFileSystem(
        endpoint_url=server.url, token="anon", use_listings_cache=False
    )
    files.pipe_file("bucket/d/a", b"1")
    files.cp_file("bucket/d/a", "bucket/d/b")
    files.mv("bucket/d/b", "bucket/d/c")
    assert sorted(files.find("bucket/d")) == ["bucket/d/a", "bucket/d/c"]
    # On Google's own servers `rm` deletes in batches.
    names = ["bucket/d/a", "bucket/d/c", "bucket/d/none"]
    deleted = fsspec.asyn.sync(files.loop, files._rm_files, names)
    assert deleted[:2] == names[:2]
    assert "No such object" in str(deleted[2])
    assert files.find("bucket/d") == []
    assert server.plan.count("POST /batch") == 1


def test_a_server_of_its_own_takes_faults_by_http() -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "helpers.fake_gcs", "--port", "0"],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        client = Client(server.stdout.readline().strip())
        with client.session as session:
            fault = json.dumps({"kind": "status", "match": "/o/a", "status": 503})
            session.post(f"{client.url}/_fake/faults", data=fault)
            assert client.get("/a").status_code == 503
            assert client.get("/a").status_code == 404
            log = session.get(f"{client.url}/_fake/log").json()
        assert log["num_injected"] == 1
        assert log["log"][0].endswith("/o/a !status")
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
