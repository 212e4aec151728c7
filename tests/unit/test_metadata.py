"""The metadata server's notices: every value, in every order, and wrong servers.

Guards against a training that does not hear of its end, that stops for nothing, that
stops at each start of a maintenance, or that a broken metadata server brings down.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_http import Answer
from helpers.fake_metadata import FakeMetadata
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.errors import NoticeError
from resumable_tf.notices.metadata import (
    MetadataClient,
    MetadataNotices,
    is_on_google_cloud,
    metadata_pollers,
    parse_event,
    parse_preempted,
    parse_upcoming,
)
from resumable_tf.notices.notice import Notice, NoticePoller

NOW = 1_800_000_000.0
PREEMPTED, EVENT = "instance/preempted", "instance/maintenance-event"
UPCOMING = "instance/upcoming-maintenance"
TERMINATE = "TERMINATE_ON_HOST_MAINTENANCE"
MIGRATE = "MIGRATE_ON_HOST_MAINTENANCE"


@pytest.fixture
def server() -> Iterator[FakeMetadata]:
    with FakeMetadata() as fake:
        yield fake


def notices_of(server: FakeMetadata, *, timeout_secs: float = 60) -> MetadataNotices:
    client = MetadataClient(server.host, timeout_secs=timeout_secs)
    return MetadataNotices(client, clock=lambda: NOW)


def upcoming(status: str = "PENDING", start: str | None = None) -> str:
    record = {"type": "SCHEDULED", "maintenance_status": status}
    return json.dumps(
        record if start is None else {**record, "window_start_time": start}
    )


SOON, LATER = "2027-01-15T08:00:30Z", "2027-01-15T09:00:00+00:00"  # NOW + 30, + 3600
VALUES: dict[str, tuple[tuple[str | None, bool], ...]] = {
    EVENT: (("NONE", False), (MIGRATE, False), (TERMINATE, True)),
    UPCOMING: (
        (None, False),
        (upcoming(start=LATER), False),
        (upcoming(), False),
        ('{"error": "no notifications have been received yet"}', False),
        (upcoming(start=SOON), True),
        (upcoming("ONGOING", LATER), True),
    ),
}
SEQUENCES = [
    (key, sequence)
    for key, values in VALUES.items()
    for sequence in itertools.product(values, repeat=3 if key == EVENT else 2)
]


def test_every_sequence_of_maintenance_stops_once_it_begins_and_only_then(
    server: FakeMetadata,
) -> None:
    """What was announced before the start does not count: it has stopped one before."""
    num_notices = 0
    for key, sequence in SEQUENCES:
        server.values.pop(key, None)
        notices = notices_of(server)
        was_due = True  # Before the first look, nothing is known.
        for value, is_due in sequence:
            server.values.pop(key, None)
            if value is not None:
                server.values[key] = value
            notice = notices.read()
            assert (notice is not None) == (is_due and not was_due), sequence
            if notice is not None:
                assert notice.name == "maintenance"
                assert key.split("/")[1] in notice.detail
                num_notices += 1
            was_due = is_due
        server.values[EVENT] = "NONE"
        server.values.pop(UPCOMING, None)
    assert num_notices > 10


def test_preemption_counts_at_any_time_whatever_else_is_said(
    server: FakeMetadata,
) -> None:
    for event, (planned, _) in itertools.product(
        ("NONE", TERMINATE, "nonsense"), VALUES[UPCOMING]
    ):
        server.values[EVENT] = event
        server.values[UPCOMING] = planned or Answer("gone", status=500)
        server.values[PREEMPTED] = "TRUE"
        notice = notices_of(server).read()
        assert notice is not None
        assert notice.name == "preempted"


WRONG = {
    "other status": Answer("FALSE", status=500),
    "unavailable": Answer("try again", status=503),
    "forbidden": Answer("no", status=403),
    "not a metadata server": Answer("FALSE", is_google=False),
    "page": Answer("<html>Log in</html>"),
    "empty": Answer(""),
    "late": Answer("FALSE", is_late=True),
    "reset": Answer("FALSE", is_reset=True),
    "cut off": Answer("FALSE", claims=500),
    "no text": Answer("\x00\xff"),
}


@pytest.mark.parametrize("key", [PREEMPTED, EVENT, UPCOMING])
@pytest.mark.parametrize("wrong", list(WRONG))
def test_a_wrong_answer_is_an_error_that_names_it_and_hides_no_other_value(
    server: FakeMetadata, key: str, wrong: str
) -> None:
    notices = notices_of(server, timeout_secs=0.2 if wrong == "late" else 60)
    notices._was_due = {"maintenance-event": False, "upcoming-maintenance": False}
    server.values[key] = WRONG[wrong]
    with pytest.raises(NoticeError, match=key.split("/")[1]):
        notices.read()
    loud = PREEMPTED if key != PREEMPTED else EVENT
    server.values[loud] = "TRUE" if loud == PREEMPTED else TERMINATE
    assert isinstance(notices.read(), Notice)


def test_a_server_that_is_not_there_is_an_error(server: FakeMetadata) -> None:
    with FakeMetadata() as gone:
        host = gone.host
    with pytest.raises(NoticeError, match="Connection"):
        MetadataClient(host).get(PREEMPTED)


TEXTS = st.sampled_from(["TRUE", "NONE", upcoming(), '{"error": 1}']) | st.text(
    alphabet='TRUEFALS{}[]":,error '
)


@given(status=st.sampled_from([200, 204, 301, 404, 429, 500, 503]), text=TEXTS)
def test_no_answer_at_all_makes_the_parsers_fail_otherwise_than_by_their_error(
    status: int, text: str
) -> None:
    for parse in (parse_preempted, parse_event, parse_upcoming):
        try:
            found = parse(status, text)
        except NoticeError:
            continue
        is_absent = parse is parse_upcoming and (status == 404 or "error" in text)
        assert found is None or status == 200 or is_absent


@pytest.mark.parametrize(
    "record", [[], 3, None, {}, {"maintenance_status": 3}, {"window_start_time": 3}]
)
def test_json_of_another_form_is_an_error(record: Any) -> None:
    with pytest.raises(NoticeError, match="upcoming-maintenance"):
        parse_upcoming(200, json.dumps(record))


class Scripted:
    """A source whose answers are given."""

    def __init__(self, *answers: Notice | NoticeError | None) -> None:
        self.answers = list(answers)
        self.num_asked = 0

    def __call__(self) -> Notice | None:
        self.num_asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, NoticeError):
            raise answer
        return answer


def test_a_row_of_failures_is_logged_once_and_so_is_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    failure = NoticeError("HTTP 500")
    answers = [failure, failure, None, None, failure, None]
    poller = NoticePoller(Scripted(*answers), every_secs=1.0)
    for _ in answers:
        assert poller.poll_once() is None
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "INFO", "WARNING", "INFO"]


def test_the_thread_tells_of_one_notice_and_then_asks_no_more() -> None:
    read = Scripted(NoticeError("HTTP 500"), None, Notice("preempted", "x"), None)
    heard: list[Notice] = []
    has_heard = threading.Event()

    def notify(notice: Notice) -> None:
        heard.append(notice)
        has_heard.set()

    poller = NoticePoller(read, every_secs=0.0)
    poller.start(notify)
    thread = poller._thread
    assert has_heard.wait(60)
    thread.join(60)
    assert not thread.is_alive()
    assert (heard, read.num_asked) == ([Notice("preempted", "x")], 3)


def test_a_poller_that_was_stopped_tells_nothing() -> None:
    answer, asked = threading.Event(), threading.Event()
    heard: list[Notice] = []

    def read() -> Notice:
        asked.set()
        answer.wait(60)
        return Notice("preempted", "too late")

    poller = NoticePoller(read, every_secs=0.0)
    poller.start(heard.append)
    thread = poller._thread
    assert asked.wait(60)
    poller.stop()
    answer.set()
    thread.join(60)
    assert heard == []


def test_a_proxy_is_not_asked(
    server: FakeMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would answer for the machine that it runs on."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert MetadataClient(server.host).get(PREEMPTED) == (200, "FALSE")


def test_where_there_is_a_metadata_server_is_known_without_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeMetadata
) -> None:
    google, other = tmp_path / "google", tmp_path / "other"
    google.write_text("Google Compute Engine\n")
    other.write_text("Standard PC\n")
    cases: list[tuple[dict[str, str], Path, bool]] = [
        ({}, google, True),
        ({}, other, False),
        ({}, tmp_path / "missing", False),
        ({"GCE_METADATA_HOST": "127.0.0.1:1"}, other, True),
        ({"GCE_METADATA_IP": "127.0.0.1"}, other, True),
        ({"NO_GCE_CHECK": "true", "GCE_METADATA_HOST": "x"}, google, False),
    ]
    for environment, file, expected in cases:
        assert is_on_google_cloud(environment, product_file=str(file)) is expected
    assert metadata_pollers() == []
    monkeypatch.delenv("NO_GCE_CHECK")
    monkeypatch.setenv("GCE_METADATA_HOST", server.host)
    server.values[PREEMPTED] = "TRUE"
    (poller,) = metadata_pollers()
    assert poller.poll_once().name == "preempted"
