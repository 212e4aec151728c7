"""The manifest of a checkpoint: its commit, its checksums and its meaning.

    data = manifest.to_bytes()             # canonical JSON, with its own checksum
    manifest = Manifest.from_bytes(data)   # strict: every field, nothing else

A checkpoint exists exactly as long as its manifest does. This module needs neither
TensorFlow nor a storage.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from resumable_tf.checkpoint.layout import data_shard, is_index
from resumable_tf.checkpoint.sealed_json import SealedFile
from resumable_tf.errors import CheckpointCorruptError, CheckpointVersionError
from resumable_tf.storage.schema import (
    COUNT,
    CRC32C,
    MAX_INT,
    SHA256,
    STEP,
    TIME,
    Array,
    Fields,
    FileName,
    Free,
    Kind,
    Maybe,
    Number,
    Table,
    Text,
)
from resumable_tf.storage.strict_json import parse_json

FORMAT_VERSION = 1
"""Version of the checkpoint format that this code writes."""

MAX_BYTES = 16 * 2**20
"""Of a manifest; a hundred thousand variables need as much."""
_MAX_RANK = 254
_DTYPE = Text("[a-z][a-z0-9_]{0,31}", 32, "a dtype of TensorFlow's")
_KINDS: dict[str, Kind] = {
    "step": STEP,
    "epoch": Maybe(COUNT),
    "batch": Maybe(COUNT),
    "files": Array(
        Fields({"name": FileName(), "size": COUNT, "crc32c": CRC32C}),
        min_length=2,
        max_length=100_000,
    ),
    "inventory": Table(
        Fields({"shape": Array(COUNT, max_length=_MAX_RANK), "dtype": _DTYPE})
    ),
    "optimizers": Table(Text()),
    "data": Maybe(Table(Free())),
    "extra": Table(Free()),
    "metrics": Table(Number()),
    "versions": Table(Text()),
    "topology": Fields({"num_replicas": COUNT}),
    "config": Maybe(SHA256),
    "time": TIME,
}
_FILE = SealedFile("the manifest", FORMAT_VERSION, Fields(_KINDS), MAX_BYTES)


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
        """Returns canonical JSON: equal manifests give equal bytes.

        Raises:
            ValueError: If it could not be read again.
        """
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        del fields["format_version"]
        fields["files"] = [dataclasses.asdict(record) for record in self.files]
        fields["inventory"] = {
            key: {"shape": list(spec.shape), "dtype": spec.dtype}
            for key, spec in self.inventory.items()
        }
        _check_sense(self)
        return _FILE.to_bytes(fields, is_pretty=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Returns the manifest that `to_bytes` wrote.

        Args:
            data: The file's contents.

        Raises:
            CheckpointCorruptError: If it is not a complete, undamaged manifest.
            CheckpointVersionError: If a newer version of this project wrote it.
        """
        try:
            fields = _FILE.parse(data)
            files = [FileRecord(**record) for record in fields.pop("files")]
            inventory = {
                key: TensorSpec(**spec) for key, spec in fields.pop("inventory").items()
            }
            manifest = cls(**fields, files=tuple(files), inventory=inventory)
            _check_sense(manifest)
        except CheckpointVersionError:
            raise
        except ValueError as error:
            raise CheckpointCorruptError(
                f"the manifest is damaged or cut off: {error}"
            ) from error
        return manifest


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
        return parse_json(json.dumps(value, allow_nan=False).encode("ascii"))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"{what} must be JSON values (strings, finite numbers, lists, dicts): "
            f"{error}"
        ) from error


def hex_crc32c(value: int) -> str:
    """Returns a crc32c as it stands in manifests."""
    return f"{value:08x}"


def _check_sense(manifest: Manifest) -> None:
    """Checks what no single field tells.

    Raises:
        ValueError: If the files are not those of one whole bundle of this step, or a
            value is larger than any file.
    """
    names = [record.name for record in manifest.files]
    _check_files(manifest.step, names)
    for key, spec in manifest.inventory.items():
        if math.prod(spec.shape) > MAX_INT:
            raise ValueError(f"{key[:80]!a} is larger than any file")


def _check_files(step: int, names: Sequence[str]) -> None:
    """Checks that files are an index and all its data files, each once.

    Raises:
        ValueError: If they are not.
    """
    shards = [shard for name in names if (shard := data_shard(name, step)) is not None]
    total = len(names) - 1
    is_whole = sorted(shards) == [(number, total) for number in range(total)]
    if not is_whole or [is_index(name, step) for name in names].count(True) != 1:
        raise ValueError(f"its files are not those of one checkpoint of step {step}")
