"""Gathers what `resumable-tf tpu doctor` judges. Imports no TensorFlow.

facts = gather_facts(bucket="gs://bucket/run")

Nothing is waited for: the metadata server has a second to answer, and a machine that
has none is no error.
"""

from __future__ import annotations

import email.utils
import http.client
import importlib.metadata
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from resumable_tf.errors import ResumableError
from resumable_tf.storage import open_storage
from resumable_tf.tpu.doctor import Facts
from resumable_tf.tpu.machine import find_machine, settings_from

TIMEOUT_SECS = 1.0
_FOLLOWERS = ("tensorflow-text", "tf-keras")
# The address and not the name: looking a name up knows no time limit.
_METADATA_HOST = "169.254.169.254"
_BASE = "/computeMetadata/v1/instance/"
_GCLOUD_DEFAULT = "gcloud/application_default_credentials.json"


class Answer(NamedTuple):
    """What the metadata server said.

    Attributes:
        text: The value, None if there is none under this name.
        offset_secs: How far this machine's clock is ahead of the server's.
    """

    text: str | None
    offset_secs: float | None


AskMetadata = Callable[[str], Answer | None]
"""Maps a path below `instance/` to the answer; None if no server answers."""


def gather_facts(
    *,
    bucket: str | None,
    environment: Mapping[str, str] | None = None,
    ask: AskMetadata | None = None,
) -> Facts:
    """Returns what there is on this machine.

    Args:
        bucket: URL of a run directory to try, if any.
        environment: Variables; those of this process if None.
        ask: How the metadata server is asked.
    """
    variables = os.environ if environment is None else environment
    ask = ask or metadata_client(variables)
    account = ask("service-accounts/default/email")
    # A server that did not answer once is not waited for again.
    accelerator = None if account is None else ask("attributes/accelerator-type")
    credentials, credentials_error = _credentials(variables, account)
    return Facts(
        python=sys.version_info[:3],
        machine=find_machine(),
        settings=settings_from(None, environment=variables),
        followers=installed_followers(),
        load_library=variables.get("TPU_LOAD_LIBRARY"),
        accelerator=accelerator.text if accelerator else None,
        credentials=credentials,
        credentials_error=credentials_error,
        bucket=bucket,
        bucket_error=None if bucket is None else try_bucket(bucket),
        clock_offset_secs=account.offset_secs if account else None,
    )


def installed_followers() -> dict[str, str]:
    """Returns the versions of what follows TensorFlow's, without importing it."""
    found = {}
    for name in _FOLLOWERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def metadata_client(
    environment: Mapping[str, str],
    *,
    timeout_secs: float = TIMEOUT_SECS,
    clock: Callable[[], float] = time.time,
) -> AskMetadata:
    """Returns a function that asks the metadata server, and never raises.

    Args:
        environment: `GCE_METADATA_HOST` or `GCE_METADATA_IP` name another server.
        timeout_secs: Seconds to wait for each answer.
        clock: Seconds since 1970.
    """
    host = (
        environment.get("GCE_METADATA_HOST")
        or environment.get("GCE_METADATA_IP")
        or _METADATA_HOST
    )

    def ask(path: str) -> Answer | None:
        connection = http.client.HTTPConnection(host, timeout=timeout_secs)
        try:
            headers = {"Metadata-Flavor": "Google"}
            connection.request("GET", _BASE + path, headers=headers)
            response = connection.getresponse()
            if response.headers.get("Metadata-Flavor") != "Google":
                return None
            text = response.read().decode(errors="replace").strip()
            date = response.headers.get("Date")
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        is_there = response.status == http.HTTPStatus.OK
        return Answer(text if is_there else None, _offset_secs(date, clock()))

    return ask


def _offset_secs(date: str | None, now: float) -> float | None:
    """Returns how far `now` is ahead of an HTTP date, which counts whole seconds."""
    if date is None:
        return None
    try:
        return now - email.utils.parsedate_to_datetime(date).timestamp() - 0.5
    except ValueError:
        return None


def _credentials(
    environment: Mapping[str, str], account: Answer | None
) -> tuple[str | None, str | None]:
    """Returns where Google's libraries would take credentials from, or an error."""
    named = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        if Path(named).is_file():
            return f"GOOGLE_APPLICATION_CREDENTIALS={named}", None
        return None, f"GOOGLE_APPLICATION_CREDENTIALS={named}: there is no such file"
    home = environment.get("CLOUDSDK_CONFIG")
    default = (
        Path(home, Path(_GCLOUD_DEFAULT).name)
        if home
        else Path(environment.get("HOME", "/"), ".config", _GCLOUD_DEFAULT)
    )
    if default.is_file():
        return str(default), None
    if account is not None and account.text:
        return f"the VM's service account {account.text}", None
    return None, None


def try_bucket(url: str) -> str | None:
    """Writes, reads and deletes a small file; returns what went wrong, None if nothing.

    Args:
        url: A directory; local or a URL.
    """
    name, content = f".doctor-{uuid.uuid4().hex}", b"resumable-tf tpu doctor"
    try:
        storage = open_storage(url)
        storage.write_bytes(name, content)
        try:
            read = storage.read_bytes(name)
        finally:
            storage.delete(name)
    except (ResumableError, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    if read != content:
        return f"wrote {len(content)} bytes and read {len(read)} others"
    return None
