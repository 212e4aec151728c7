"""A fake of Google's metadata server, over real HTTP on a free port.

    with FakeMetadata() as server:
        server.values["instance/preempted"] = "TRUE"
        client = MetadataClient(server.host)

Wrong servers: an `Answer` in place of a value has another status, other headers, comes
late or breaks off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from helpers.fake_http import Answer, FakeServer

PREFIX = "/computeMetadata/v1/"


@dataclass
class FakeMetadata(FakeServer):
    """The server; a machine that goes on, until `values` says otherwise."""

    values: dict[str, str | Answer] = field(
        default_factory=lambda: {
            "instance/preempted": "FALSE",
            "instance/maintenance-event": "NONE",
            "project/project-id": "project-1",
            "instance/zone": "projects/123/zones/us-central1-a",
        }
    )

    def reply(self, path: str, headers: Mapping[str, str]) -> Answer:
        if headers.get("Metadata-Flavor") != "Google":
            return Answer("Missing Metadata-Flavor:Google header.", status=403)
        key = path.removeprefix(PREFIX).partition("?")[0]
        value = self.values.get(key, Answer("not found", status=404))
        return Answer(value) if isinstance(value, str) else value

    def headers_of(self, answer: Answer) -> dict[str, str]:
        return {"Metadata-Flavor": "Google"} if answer.is_google else {}
