"""What a fake Google Cloud Storage holds: objects, generations, unfinished uploads.

    store = Store(["bucket"])
    stored = store.put("bucket", "a", b"1", Conditions(if_generation_match=0))
    store.get("bucket", "a").generation == stored.generation

Every method is one transaction. Errors are those of the JSON API, with its status.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import functools
import hashlib
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c

UPLOAD_QUANTUM = 256 * 1024
"""All chunks of a resumable upload but the last are multiples of this."""

MAX_RESULTS = 1000
"""No page of a listing is longer, whatever the request says."""


class ApiError(Exception):
    """An answer of the API that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Preconditions of a request; None asks for nothing, generation 0 for absence."""

    if_generation_match: int | None = None
    if_generation_not_match: int | None = None
    if_metageneration_match: int | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Conditions:
        def number(name: str) -> int | None:
            return int(query[name]) if name in query else None

        return cls(
            number("ifGenerationMatch"),
            number("ifGenerationNotMatch"),
            number("ifMetagenerationMatch"),
        )

    def check(self, stored: StoredObject | None) -> None:
        generation = stored.generation if stored else 0
        metageneration = stored.metageneration if stored else 0
        failed = (
            self.if_generation_match not in (None, generation)
            or self.if_generation_not_match == generation
            or self.if_metageneration_match not in (None, metageneration)
        )
        if failed:
            raise ApiError(412, "At least one of the pre-conditions did not hold.")


ANY = Conditions()


@dataclasses.dataclass(frozen=True)
class StoredObject:
    """One generation of an object."""

    bucket: str
    name: str
    data: bytes
    generation: int
    content_type: str = "application/octet-stream"
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metageneration: int = 1

    @functools.cached_property
    def crc32c(self) -> str:
        checksum = google_crc32c.Checksum(self.data)
        return base64.b64encode(checksum.digest()).decode()

    @functools.cached_property
    def md5(self) -> str:
        return base64.b64encode(hashlib.md5(self.data).digest()).decode()

    def resource(self) -> dict[str, Any]:
        """Returns what the JSON API tells of the object."""
        moment = datetime.datetime.fromtimestamp(
            self.generation / 1e6, tz=datetime.timezone.utc
        ).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "name": self.name,
            "bucket": self.bucket,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "contentType": self.content_type,
            "metadata": dict(self.metadata),
            "size": str(len(self.data)),
            "crc32c": self.crc32c,
            "md5Hash": self.md5,
            "etag": str(self.generation),
            "storageClass": "STANDARD",
            "timeCreated": moment,
            "updated": moment,
        }


@dataclasses.dataclass
class Upload:
    """A resumable upload under way."""

    bucket: str
    fields: Mapping[str, Any]
    conditions: Conditions
    data: bytearray = dataclasses.field(default_factory=bytearray)
    finished: StoredObject | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """One page of names."""

    items: list[StoredObject]
    prefixes: list[str]
    next_token: str | None


class Store:
    """Buckets in memory; every method may be called from any thread."""

    def __init__(self, buckets: Sequence[str]) -> None:
        self._lock = threading.RLock()
        self._buckets: dict[str, dict[str, StoredObject]] = {b: {} for b in buckets}
        self._uploads: dict[str, Upload] = {}
        self._generation = time.time_ns() // 1000
        # The last states of all buckets, for listings that lag behind.
        self._history: collections.deque[Any] = collections.deque(maxlen=50)

    def has_bucket(self, bucket: str) -> bool:
        return bucket in self._buckets

    def objects(self, bucket: str, *, changes_ago: int = 0) -> dict[str, StoredObject]:
        """Returns a bucket's objects, or those of some changes ago."""
        with self._lock:
            buckets = self._buckets
            if changes_ago and self._history:
                buckets = self._history[-min(changes_ago, len(self._history))]
            if bucket not in self._buckets:
                raise ApiError(404, "The specified bucket does not exist.")
            return dict(buckets.get(bucket, {}))

    def get(
        self, bucket: str, name: str, conditions: Conditions = ANY, generation: int = 0
    ) -> StoredObject:
        with self._lock:
            stored = self.objects(bucket).get(name)
            if stored is None or generation not in (0, stored.generation):
                raise ApiError(404, f"No such object: {bucket}/{name}")
            conditions.check(stored)
            return stored

    def put(
        self,
        bucket: str,
        name: str,
        data: bytes,
        conditions: Conditions = ANY,
        fields: Mapping[str, Any] | None = None,
    ) -> StoredObject:
        fields = fields or {}
        with self._lock:
            objects = self.objects(bucket)
            conditions.check(objects.get(name))
            # Generations are times in microseconds, each greater than the last.
            self._generation = max(self._generation + 1, time.time_ns() // 1000)
            stored = StoredObject(
                bucket=bucket,
                name=name,
                data=bytes(data),
                generation=self._generation,
                content_type=fields.get("contentType") or "application/octet-stream",
                metadata=fields.get("metadata") or {},
            )
            for field, actual in (("crc32c", stored.crc32c), ("md5Hash", stored.md5)):
                if fields.get(field, actual) != actual:
                    raise ApiError(400, f"Provided {field} does not match the data.")
            self._change(bucket, {**objects, name: stored})
            return stored

    def delete(self, bucket: str, name: str, conditions: Conditions = ANY) -> None:
        with self._lock:
            self.get(bucket, name, conditions)
            objects = self.objects(bucket)
            del objects[name]
            self._change(bucket, objects)

    def list(self, bucket: str, query: Mapping[str, str], changes_ago: int) -> Listing:
        """Returns a page; the token is the last name of the page before."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit = min(int(query.get("maxResults", MAX_RESULTS)), MAX_RESULTS)
        found: dict[str, StoredObject | None] = {}
        for name, stored in self.objects(bucket, changes_ago=changes_ago).items():
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            if query.get("endOffset") and name >= query["endOffset"]:
                continue
            head, cut, _ = name[len(prefix) :].partition(delimiter or "\0")
            if cut:
                found[prefix + head + delimiter] = None
            else:
                found[name] = stored
        names = sorted(name for name in found if name > query.get("pageToken", ""))
        page = names[:limit]
        return Listing(
            items=[stored for name in page if (stored := found[name])],
            prefixes=[name for name in page if found[name] is None],
            next_token=page[-1] if len(names) > limit else None,
        )

    def begin_upload(
        self, bucket: str, fields: Mapping[str, Any], conditions: Conditions
    ) -> str:
        with self._lock:
            conditions.check(self.objects(bucket).get(fields["name"]))
            upload_id = uuid.uuid4().hex
            self._uploads[upload_id] = Upload(bucket, fields, conditions)
            return upload_id

    def append(
        self, upload_id: str, offset: int | None, data: bytes, total: int | None
    ) -> Upload:
        """Adds a chunk; bytes that were there already are ignored, as the API does.

        Args:
            upload_id: Which upload.
            offset: Of the chunk; None only asks how far the upload is.
            data: The chunk.
            total: Length of the whole object, None if not known yet.
        """
        with self._lock:
            upload = self._uploads.get(upload_id)
            if upload is None:
                raise ApiError(410, "The upload session is gone.")
            if upload.finished is not None:
                return upload
            if offset is not None:
                have = len(upload.data)
                if offset > have:
                    raise ApiError(503, f"Expected byte {have}, not {offset}.")
                upload.data += data[have - offset :]
            if total is None:
                excess = len(upload.data) % UPLOAD_QUANTUM
                del upload.data[len(upload.data) - excess :]
            elif len(upload.data) >= total:
                upload.finished = self.put(
                    upload.bucket,
                    upload.fields["name"],
                    bytes(upload.data),
                    upload.conditions,
                    upload.fields,
                )
                upload.data.clear()
            return upload

    def cancel(self, upload_id: str) -> None:
        with self._lock:
            self._uploads.pop(upload_id, None)

    def copy_tree(self, bucket: str, source: str, target: str) -> None:
        """Makes everything below `target` equal to what is below `source`."""
        with self._lock:
            objects = {
                name: stored
                for name, stored in self.objects(bucket).items()
                if not name.startswith(f"{target}/")
            }
            self._change(bucket, objects)
            for name, stored in objects.items():
                if name.startswith(f"{source}/"):
                    self.put(bucket, target + name[len(source) :], stored.data)

    def create_bucket(self, bucket: str) -> None:
        with self._lock:
            self._buckets.setdefault(bucket, {})

    def _change(self, bucket: str, objects: dict[str, StoredObject]) -> None:
        self._history.append(dict(self._buckets))
        self._buckets[bucket] = objects
