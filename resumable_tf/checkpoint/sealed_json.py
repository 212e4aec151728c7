"""The small JSON files of a run: a version, fields of certain kinds, a checksum.

    LEASE = SealedFile("the lease", version=1, fields=Fields({"token": Text()}))
    data = LEASE.to_bytes({"token": "a"})
    LEASE.parse(data)                  # {"token": "a"}
    LEASE.read(storage, "lease.json")  # None without the file

What is written was checked as it will be when it is read: nothing is committed that
could not be read again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import google_crc32c

from resumable_tf.errors import CheckpointCorruptError, CheckpointVersionError
from resumable_tf.storage import Storage
from resumable_tf.storage.schema import CRC32C, Choice, Fields, Kind
from resumable_tf.storage.strict_json import canonical_json, parse_json

CHECKSUM = "crc32c"
"""Field of a file that holds the checksum of all others."""
VERSION = "format_version"


@dataclasses.dataclass(frozen=True)
class SealedFile:
    """What one kind of file may say.

    Attributes:
        what: What it is, for messages.
        version: That this code writes, and the only one that it reads.
        fields: Besides version and checksum.
        max_bytes: Length of the longest one.
    """

    what: str
    version: int
    fields: Fields
    max_bytes: int

    def to_bytes(self, fields: Mapping[str, Any], *, is_pretty: bool = True) -> bytes:
        """Returns the contents of a file.

        Args:
            fields: Besides version and checksum.
            is_pretty: Whether for people; else in the one canonical form.

        Raises:
            ValueError: If it could not be read again.
        """
        plain = seal({VERSION: self.version, **fields})
        data = canonical_json(plain)
        if is_pretty:
            text = json.dumps(plain, indent=2, sort_keys=True, default=dict)
            data = text.encode("ascii") + b"\n"
        if len(data) > self.max_bytes:
            raise ValueError(
                f"{self.what} would have {len(data)} bytes; it has at most "
                f"{self.max_bytes}"
            )
        self.parse(data)
        return data

    def parse(self, data: bytes) -> dict[str, Any]:
        """Returns the fields, besides version and checksum.

        Raises:
            ValueError: If it is not what `to_bytes` writes.
            CheckpointVersionError: If a newer version of this project wrote it.
        """
        if len(data) > self.max_bytes:
            raise ValueError(f"{len(data)} bytes, at most {self.max_bytes}")
        fields = parse_json(data)
        if not isinstance(fields, dict) or CHECKSUM not in fields:
            raise ValueError("no checksum")
        # The rule of the checksum, and where the version is, all versions share.
        check_seal(fields)
        version = fields.get(VERSION)
        if type(version) is int and version > self.version:
            raise CheckpointVersionError(
                f"{self.what} has format {version}, this version reads up to "
                f"{self.version}; use a newer resumable-tf"
            )
        own: dict[str, Kind] = {VERSION: Choice([self.version]), CHECKSUM: CRC32C}
        kinds = Fields({**own, **self.fields.required}, self.fields.optional)
        checked = kinds.check(fields, self.what)
        return {name: value for name, value in checked.items() if name not in own}

    def read(self, storage: Storage, name: str) -> dict[str, Any] | None:
        """Returns the fields of a file, None if it is not there.

        Args:
            storage: Where it is.
            name: Of the file.

        Raises:
            CheckpointCorruptError: If it is damaged.
            CheckpointVersionError: If a newer version of this project wrote it.
            UnsafeFileError: If it is no regular file, or too long.
        """
        try:
            data = storage.read_bytes(name, max_bytes=self.max_bytes)
        except FileNotFoundError:
            return None
        where = storage.locate(name)
        try:
            return self.parse(data)
        except CheckpointVersionError as error:
            raise CheckpointVersionError(f"{where}: {error}") from error
        except ValueError as error:
            raise CheckpointCorruptError(f"{where} can't be read: {error}") from error


def seal(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a file together with their checksum."""
    return {**fields, CHECKSUM: _checksum(fields)}


def check_seal(fields: Mapping[str, Any]) -> None:
    """Compares the fields of a file with their checksum.

    Raises:
        ValueError: If they are not those that were written.
    """
    expected = _checksum(fields)
    if fields[CHECKSUM] != expected:
        raise ValueError(f"its checksum is {expected}, it says another one")


def _checksum(fields: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in fields.items() if name != CHECKSUM}
    return f"{google_crc32c.value(canonical_json(rest)):08x}"
