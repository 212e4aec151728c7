"""Requests of Google Cloud Storage that fsspec has no word for.

    data, generation = read_version(files, "bucket/run/a")
    generation = replace(files, "bucket/run/a", b"new", generation=generation)

`files` is a `gcsfs.GCSFileSystem`; each function is one request, made and repeated by
its `call`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ABSENT = "0"
"""The generation of an object that is not there."""


def is_gcs(files: Any) -> bool:
    """Returns whether a file system is Google Cloud Storage's."""
    protocols = files.protocol
    return "gs" in ((protocols,) if isinstance(protocols, str) else protocols)


def stat(files: Any, path: str) -> dict[str, Any]:
    """Returns the resource of an object: size, crc32c, generation.

    `files.info` would also list what is below `path`, with three requests.

    Raises:
        FileNotFoundError: If there is no such object.
    """
    bucket, key, _ = files.split_path(path)
    if not key:
        raise FileNotFoundError(f"gs://{path} is a bucket")
    resource = files.call("GET", "b/{}/o/{}", bucket, key, json_out=True)
    return {**resource, "size": int(resource["size"])}


def read_version(files: Any, path: str) -> tuple[bytes, str]:
    """Returns an object's contents and their generation, from one answer."""
    headers, data = files.call("GET", files.url(path))
    return bytes(data), str(headers["X-Goog-Generation"])


def replace(files: Any, path: str, data: bytes, *, generation: str) -> str:
    """Writes over one generation of an object; returns the new one.

    Raises `FileExistsError` if the object is of another generation (412).
    """
    return str(put(files, path, data, ifGenerationMatch=generation)["generation"])


def put(files: Any, path: str, data: bytes, **conditions: str) -> dict[str, Any]:
    """Writes an object in one request; returns its resource.

    Raises `FileExistsError` if a condition does not hold (412).
    """
    bucket, key, _ = files.split_path(path)
    resource = files.call(
        "POST",
        files.base.replace("/storage/v1/", "/upload/storage/v1/") + "b/{}/o",
        bucket,
        uploadType="media",
        name=key,
        headers={"Content-Type": "application/octet-stream"},
        data=data,
        json_out=True,
        **conditions,
    )
    return dict(resource)


def compose(
    files: Any, path: str, sources: Sequence[str], **conditions: str
) -> dict[str, Any]:
    """Joins up to 32 objects of the same bucket into one; returns its resource.

    They stay. Raises `FileExistsError` if a condition does not hold (412).
    """
    bucket, key, _ = files.split_path(path)
    names = [files.split_path(source)[1] for source in sources]
    resource = files.call(
        "POST",
        "b/{}/o/{}/compose",
        bucket,
        key,
        json={
            "sourceObjects": [{"name": name} for name in names],
            "destination": {"contentType": "application/octet-stream"},
        },
        json_out=True,
        **conditions,
    )
    return dict(resource)


def delete_version(files: Any, path: str, *, generation: str) -> None:
    """Deletes one generation of an object.

    Raises `FileExistsError` if the object is of another generation (412).
    """
    bucket, key, _ = files.split_path(path)
    files.call("DELETE", "b/{}/o/{}", bucket, key, ifGenerationMatch=generation)
