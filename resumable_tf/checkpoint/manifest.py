"""The manifest of a checkpoint: its commit, its checksums and its meaning.

    data = manifest.to_bytes()             # canonical JSON, with its own checksum
    manifest = Manifest.from_bytes(data)   # strict: every field, nothing else

A checkpoint exists exactly as long as its manifest does. This module needs neither
TensorFlow nor a storage.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import google_crc32c

from resumable_tf.errors import CheckpointCorruptError, CheckpointVersionError

FORMAT_VERSION = 1
"""Version of the checkpoint format that this code writes."""

CHECKSUM = "crc32c"
"""Field of a file that holds the checksum of all others."""


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """One file of a bundle.

    Attributes:
        name: File name, in the manifest's own directory.
        size: Length in bytes.
        crc32c: Checksum of the contents, 8 hexadecimal digits.
    """

    name: str
    size: int
    crc32c: str


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype (TensorFlow's name) of one value of a bundle."""

    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint is.

    Attributes:
        step: Completed training steps.
        epoch: Epoch of the next batch, None if unknown.
        batch: Number of that batch in its epoch, None if unknown.
        files: The bundle's files.
        inventory: Every value of the bundle by TensorFlow's key, without TensorFlow's
            own bookkeeping (`save_counter` and the object graph).
        optimizers: Class of each optimizer, by its path in the object graph.
        data: What the data said about itself, None without data.
        extra: The loop's own values.
        metrics: Metrics at this step.
        versions: Versions of what wrote it.
        topology: Number of replicas.
        config: Fingerprint of run.json, None without.
        time: Seconds since 1970 at the snapshot.
        format_version: Version of this format.
    """

    step: int
    epoch: int | None
    batch: int | None
    files: tuple[FileRecord, ...]
    inventory: Mapping[str, TensorSpec]
    optimizers: Mapping[str, str]
    data: Mapping[str, Any] | None
    extra: Mapping[str, Any]
    metrics: Mapping[str, float]
    versions: Mapping[str, str]
    topology: Mapping[str, Any]
    config: str | None
    time: float
    format_version: int = FORMAT_VERSION

    def to_bytes(self) -> bytes:
        """Returns canonical JSON: equal manifests give equal bytes."""
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        fields["files"] = [dataclasses.asdict(record) for record in self.files]
        fields["inventory"] = {
            key: {"shape": list(spec.shape), "dtype": spec.dtype}
            for key, spec in self.inventory.items()
        }
        return canonical_json(seal(fields))

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Returns the manifest that `to_bytes` wrote.

        Args:
            data: The file's contents.

        Raises:
            CheckpointCorruptError: If it is not a complete, undamaged manifest.
            CheckpointVersionError: If a newer version of this project wrote it.
        """
        fields = _checked_fields(data)
        try:
            return _from_fields(fields)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointCorruptError(
                f"the manifest is not of format {FORMAT_VERSION}: {error!r}"
            ) from error


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """A committed checkpoint.

    Attributes:
        step: Completed training steps.
        path: Prefix of the bundle, as `tf.train.load_checkpoint` takes it.
        manifest: What it is.
    """

    step: int
    path: str
    manifest: Manifest


def normalize_json(value: Any, *, what: str) -> Any:
    """Returns a value as it will be read back from JSON (tuples become lists).

    Args:
        value: Mappings, sequences, strings, finite numbers, booleans and None.
        what: What the value is, for the error's message.

    Raises:
        TypeError: If JSON can't hold it.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{what} must be JSON values (strings, finite numbers, lists, dicts): "
            f"{error}"
        ) from error


def hex_crc32c(value: int) -> str:
    """Returns a crc32c as it stands in manifests."""
    return f"{value:08x}"


def canonical_json(value: Any) -> bytes:
    """Returns the one way in which this project writes a JSON value."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=dict
    )
    return text.encode("ascii") + b"\n"


def parse_json(data: bytes) -> Any:
    """Returns what a file of this project says.

    Raises:
        ValueError: If it is no JSON, whatever the bytes are.
    """
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def seal(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a file together with their checksum."""
    return {**fields, CHECKSUM: _checksum(fields)}


def check_seal(fields: Mapping[str, Any]) -> None:
    """Compares the fields of a file with their checksum.

    Raises:
        ValueError: If they are not those that were written.
    """
    try:
        expected = _checksum(fields)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if fields[CHECKSUM] != expected:
        raise ValueError(f"its checksum is {expected}, it says {fields[CHECKSUM]}")


def _checksum(fields: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in fields.items() if name != CHECKSUM}
    return hex_crc32c(google_crc32c.value(canonical_json(rest)))


def _checked_fields(data: bytes) -> dict[str, Any]:
    """Parses JSON and verifies its checksum, whose rule all versions share.

    Raises:
        CheckpointCorruptError: If the JSON is damaged.
        CheckpointVersionError: If the version is a newer one.
    """
    try:
        fields = parse_json(data)
    except ValueError as error:
        raise CheckpointCorruptError(
            f"the manifest is damaged or cut off: {error}"
        ) from error
    if not isinstance(fields, dict) or CHECKSUM not in fields:
        raise CheckpointCorruptError("the manifest has no checksum")
    try:
        check_seal(fields)
    except ValueError as error:
        raise CheckpointCorruptError(f"the manifest is damaged: {error}") from error
    version = fields.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointVersionError(
            f"the checkpoint has format {version}, this version reads up to "
            f"{FORMAT_VERSION}; use a newer resumable-tf"
        )
    return fields


def _from_fields(fields: Mapping[str, Any]) -> Manifest:
    """Builds a manifest.

    Raises:
        ValueError: If a field is missing, unknown or of the wrong type.
    """
    names = {field.name for field in dataclasses.fields(Manifest)}
    found = set(fields) - {CHECKSUM}
    if found != names:
        raise ValueError(
            f"missing {sorted(names - found)}, unknown {sorted(found - names)}"
        )
    if fields["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format_version {fields['format_version']!r}")
    values = {name: _typed(fields, name) for name in names}
    values["files"] = tuple(_file_record(record) for record in fields["files"])
    values["inventory"] = {
        key: _tensor_spec(spec) for key, spec in fields["inventory"].items()
    }
    return Manifest(**values)


_TYPES: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "epoch": (int, type(None)),
    "batch": (int, type(None)),
    "files": (list,),
    "inventory": (dict,),
    "optimizers": (dict,),
    "data": (dict, type(None)),
    "extra": (dict,),
    "metrics": (dict,),
    "versions": (dict,),
    "topology": (dict,),
    "config": (str, type(None)),
    "time": (int, float),
    "format_version": (int,),
}


def _typed(fields: Mapping[str, Any], name: str) -> Any:
    """Returns a field.

    Raises:
        ValueError: If its type is not the one of this format.
    """
    value = fields[name]
    if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}")
    return value


def _file_record(fields: Mapping[str, Any]) -> FileRecord:
    """Returns one file's record.

    Raises:
        ValueError: If its name leaves the directory.
    """
    record = FileRecord(**fields)
    if "/" in record.name or not record.name:
        raise ValueError(f"file name {record.name!r}")
    return record


def _tensor_spec(fields: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(
        shape=tuple(int(size) for size in fields["shape"]), dtype=str(fields["dtype"])
    )
