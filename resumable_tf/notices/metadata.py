"""Asks Google's metadata server whether this machine is about to go.

    if is_on_google_cloud():
        notices = MetadataNotices(MetadataClient())
        notices.read()            # None, or Notice("preempted", ...)

Three values count: `preempted`, `maintenance-event` and `upcoming-maintenance`. See
https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys.
"""

from __future__ import annotations

import datetime
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from resumable_tf.errors import NoticeError
from resumable_tf.notices.notice import Notice, NoticePoller

PREEMPTED = "instance/preempted"
MAINTENANCE = "instance/maintenance-event"
UPCOMING = "instance/upcoming-maintenance?alt=json"
LEAD_SECS = 60.0
"""A maintenance that begins within this time is about to begin."""

_HOST = "metadata.google.internal"
_PRODUCT_FILE = "/sys/class/dmi/id/product_name"
_MAX_BYTES = 1 << 16
_MIGRATE, _TERMINATE = "MIGRATE_ON_HOST_MAINTENANCE", "TERMINATE_ON_HOST_MAINTENANCE"
_log = logging.getLogger(__name__)


def is_on_google_cloud(
    environment: Mapping[str, str] | None = None, *, product_file: str = _PRODUCT_FILE
) -> bool:
    """Tells, without asking the network, whether there is a metadata server.

    Args:
        environment: Variables; of this process if None. `NO_GCE_CHECK=true` means no,
            `GCE_METADATA_HOST` or `GCE_METADATA_IP` mean yes.
        product_file: Where Linux tells who made the machine.
    """
    variables = os.environ if environment is None else environment
    if variables.get("NO_GCE_CHECK", "").lower() == "true":
        return False
    if "GCE_METADATA_HOST" in variables or "GCE_METADATA_IP" in variables:
        return True
    try:
        with open(product_file, encoding="utf-8") as file:
            return file.read().startswith("Google")
    except (OSError, UnicodeDecodeError):  # Other systems have no such file.
        return False


class MetadataClient:
    """Reads values of the metadata server."""

    def __init__(self, host: str | None = None, *, timeout_secs: float = 2.0) -> None:
        """Asks nothing yet.

        Args:
            host: Name or address, with a port if it is not 80; from
                `GCE_METADATA_HOST` or `GCE_METADATA_IP`, or Google's, if None.
            timeout_secs: For each wait of a question.
        """
        variables = os.environ
        named = variables.get("GCE_METADATA_HOST") or variables.get("GCE_METADATA_IP")
        self._host = host or named or _HOST
        self._timeout_secs = timeout_secs
        # A proxy would answer for another machine.
        no_proxy = urllib.request.ProxyHandler({})
        self._opener = urllib.request.build_opener(no_proxy)

    def get(self, key: str) -> tuple[int, str]:
        """Returns the status and the text of an answer.

        Args:
            key: Such as "instance/preempted".

        Raises:
            NoticeError: If there is no answer, or not one of a metadata server.
        """
        url = f"http://{self._host}/computeMetadata/v1/{key}"
        headers = {"Metadata-Flavor": "Google"}
        request = urllib.request.Request(url, headers=headers)
        try:
            try:
                answer = self._opener.open(request, timeout=self._timeout_secs)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                status, sent = int(answer.status), answer.headers
                data = answer.read(_MAX_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise NoticeError(f"{url}: {type(error).__name__}: {error}") from error
        if sent.get("Metadata-Flavor") != "Google":
            raise NoticeError(
                f"{url}: HTTP {status} without 'Metadata-Flavor: Google'; this is no "
                "metadata server"
            )
        if sent.get("Content-Length", str(len(data))) != str(len(data)):
            raise NoticeError(f"{url}: HTTP {status}, cut off: {data[:100]!r}")
        return status, data.decode("utf-8", "replace").strip()

    def value(self, key: str) -> str:
        """Returns a value that must be there.

        Args:
            key: Such as "project/project-id".

        Raises:
            NoticeError: If there is none.
        """
        status, text = self.get(key)
        if status != http.HTTPStatus.OK:
            raise NoticeError(f"{key}: HTTP {status}: {text[:100]!r}")
        return text


@dataclass(frozen=True)
class Maintenance:
    """What `upcoming-maintenance` says.

    Attributes:
        status: PENDING or ONGOING.
        start: In seconds since 1970; None if it is not said.
    """

    status: str
    start: float | None

    def is_due(self, now: float) -> bool:
        """Returns whether it has begun or is about to."""
        is_near = self.start is not None and now >= self.start - LEAD_SECS
        return self.status == "ONGOING" or is_near


def parse_preempted(status: int, text: str) -> bool:
    """Returns what `preempted` says.

    Raises:
        NoticeError: If it says neither TRUE nor FALSE.
    """
    if status == http.HTTPStatus.OK and text in ("TRUE", "FALSE"):
        return text == "TRUE"
    raise NoticeError(
        f"preempted: HTTP {status}: {text[:100]!r}; expected TRUE or FALSE"
    )


def parse_event(status: int, text: str) -> str:
    """Returns what `maintenance-event` says.

    Raises:
        NoticeError: If it is none of the known values.
    """
    if status == http.HTTPStatus.OK and text in ("NONE", _MIGRATE, _TERMINATE):
        return text
    raise NoticeError(
        f"maintenance-event: HTTP {status}: {text[:100]!r}; expected NONE, {_MIGRATE} "
        f"or {_TERMINATE}"
    )


def parse_upcoming(status: int, text: str) -> Maintenance | None:
    """Returns what `upcoming-maintenance` says; None if nothing is planned.

    Raises:
        NoticeError: If it is no JSON object, or of another form.
    """
    if status == http.HTTPStatus.NOT_FOUND:
        return None
    try:
        record = json.loads(text)
        if "error" in record:  # "no notifications have been received yet"
            return None
        state = record.get("maintenance_status", record.get("maintenanceStatus"))
        start = record.get("window_start_time", record.get("windowStartTime"))
        seconds = None if start is None else _seconds(start)
    except (ValueError, TypeError, AttributeError) as error:
        raise NoticeError(
            f"upcoming-maintenance: HTTP {status}: {text[:100]!r}: {error}"
        ) from error
    if status != http.HTTPStatus.OK or not isinstance(state, str):
        raise NoticeError(f"upcoming-maintenance: HTTP {status}: {text[:100]!r}")
    return Maintenance(state, seconds)


class MetadataNotices:
    """Tells of preemption, and of a maintenance that begins while this process runs.

    A maintenance that was announced before does not count: the training was stopped
    for it already, and may use the time until the machine goes.
    """

    def __init__(
        self,
        client: MetadataClient,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Asks nothing yet.

        Args:
            client: Reads the values.
            clock: Seconds since 1970.
        """
        self._client = client
        self._clock = clock
        self._was_due: dict[str, bool] = {}
        self._has_told_migration = False

    def read(self) -> Notice | None:
        """Asks for the three values; one that fails does not hide the others.

        Raises:
            NoticeError: If one can't be read and the others say nothing.
        """
        failures = []
        for look in (self._preempted, self._event, self._upcoming):
            try:
                notice = look()
            except NoticeError as error:
                failures.append(str(error))
                continue
            if notice is not None:
                return notice
        if failures:
            raise NoticeError("; ".join(failures))
        return None

    def _preempted(self) -> Notice | None:
        if parse_preempted(*self._client.get(PREEMPTED)):
            return Notice("preempted", "the metadata server says: preempted TRUE")
        return None

    def _event(self) -> Notice | None:
        event = parse_event(*self._client.get(MAINTENANCE))
        if event == _MIGRATE and not self._has_told_migration:
            self._has_told_migration = True
            _log.info("this machine is being moved to another host; training goes on")
        return self._begins("maintenance-event", event == _TERMINATE, event)

    def _upcoming(self) -> Notice | None:
        planned = parse_upcoming(*self._client.get(UPCOMING))
        is_due = planned is not None and planned.is_due(self._clock())
        return self._begins("upcoming-maintenance", is_due, str(planned))

    def _begins(self, key: str, is_due: bool, detail: str) -> Notice | None:
        is_first = key not in self._was_due
        was_due = self._was_due.get(key, False)
        self._was_due[key] = is_due
        if is_due and is_first:
            _log.warning(
                "%s was announced before this start (%s); training goes on until the "
                "machine ends it",
                *(key, detail),
            )
        if is_due and not was_due and not is_first:
            return Notice("maintenance", f"the metadata server says: {key} {detail}")
        return None


def metadata_pollers(*, every_secs: float = 1.0) -> list[NoticePoller]:
    """Returns the poller of this machine's metadata server; none elsewhere."""
    if not is_on_google_cloud():
        return []
    notices = MetadataNotices(MetadataClient())
    return [NoticePoller(notices.read, every_secs=every_secs)]


def _seconds(time_text: str) -> float:
    """Returns an RFC 3339 time in seconds since 1970."""
    # Python 3.10 does not know Z.
    when = datetime.datetime.fromisoformat(time_text.replace("Z", "+00:00"))
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.timezone.utc)
    return when.timestamp()
