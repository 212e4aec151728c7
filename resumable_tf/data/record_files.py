"""Fixed-length records on disk and the `records.json` that commits them.

    records = RecordSet.open("records")
    records.splits["train"].num_rows, records.fingerprint

A row is a line of little-endian uint16: all fields after each other. Shards have
equal numbers of rows, only the last may be shorter. `records.json` is written last:
without it there is no record set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import fsspec
import google_crc32c
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from resumable_tf.data.packing import FIELDS
from resumable_tf.data.tokenizer import Tokenizer
from resumable_tf.errors import DataFormatError, UnsafeFileError
from resumable_tf.storage import PathLike, open_storage, path_text
from resumable_tf.storage.schema import (
    COUNT,
    CRC32C,
    SHA256,
    Array,
    Choice,
    Fields,
    FileName,
    Free,
    Integer,
    Kind,
    Number,
    Table,
    Text,
)
from resumable_tf.storage.strict_json import parse_json

FORMAT_VERSION = 1
RECORDS_FILE = "records.json"
TOKENIZER_FILE = "tokenizer.model"
MAX_BYTES = 16 * 2**20
_MOST_TOKENS = 2**16
_SHARD = Fields(
    {
        "file": FileName(r"(train|validation)-[0-9]{5,9}-of-[0-9]{5,9}\.bin"),
        "num_rows": Integer(1, 2**40),
        "crc32c": CRC32C,
    }
)
_SPLIT = Fields(
    {
        "num_pairs": COUNT,
        "num_rows": COUNT,
        "num_tokens": COUNT,
        "padding": Number(0, 1),
        "shards": Array(_SHARD, min_length=1),
    }
)
_LAYOUT: dict[str, Kind] = {
    "source_length": Integer(1, _MOST_TOKENS),
    "target_length": Integer(1, _MOST_TOKENS),
    "dtype": Choice(["uint16, little-endian"]),
    "fields": Array(Choice(FIELDS)),
}
_KIND = Fields(
    {
        "format_version": Choice([FORMAT_VERSION]),
        "fingerprint": SHA256,
        "source": Text(),
        "settings": Table(Free()),
        "layout": Fields(_LAYOUT),
        "tokenizer": Text(max_length=64),
        "splits": Table(_SPLIT, key=Choice(["train", "validation", "test"])),
        "dropped": Table(COUNT),
    }
)


@dataclass(frozen=True)
class RowLayout:
    """How the fields of a row follow each other.

    Attributes:
        source_length: S, in tokens.
        target_length: T, in tokens.
    """

    source_length: int
    target_length: int

    @property
    def widths(self) -> list[int]:
        """Number of values of each field, in the order of `FIELDS`."""
        lengths = {"source": self.source_length, "target": self.target_length}
        return [lengths[name.split("_")[0]] for name in FIELDS]

    @property
    def row_width(self) -> int:
        """Number of uint16 values in a row."""
        return sum(self.widths)

    def encode(self, rows: Mapping[str, npt.NDArray[np.uint16]]) -> bytes:
        """Returns the bytes of packed rows."""
        joined = np.concatenate([rows[name] for name in FIELDS], axis=1)
        return joined.astype("<u2").tobytes()

    def decode(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the int32 fields of a batch of rows, as TensorFlow operations."""
        wide = tf.ensure_shape(tf.cast(rows, tf.int32), [None, self.row_width])
        return dict(zip(FIELDS, tf.split(wide, self.widths, axis=1), strict=True))


@dataclass(frozen=True)
class Shard:
    """One file of rows."""

    file: str
    num_rows: int
    crc32c: str


@dataclass(frozen=True)
class SplitInfo:
    """What a split holds.

    Attributes:
        num_pairs: Pairs in the rows.
        num_rows: Packed rows.
        num_tokens: Source and target tokens, eos included, padding not.
        padding: Share of padding, 0 to 1.
        shards: The files.
    """

    num_pairs: int
    num_rows: int
    num_tokens: int
    padding: float
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class RecordSet:
    """A complete, committed record set.

    Attributes:
        directory: Where it is.
        source: The `--data` it was made of.
        settings: What else decides its content.
        layout: The row layout.
        tokenizer: Fingerprint (SHA-256) of the tokenizer.
        splits: `train` and `validation`.
        dropped: Pairs left out, by reason.
    """

    directory: str
    source: str
    settings: Mapping[str, Any]
    layout: RowLayout
    tokenizer: str
    splits: Mapping[str, SplitInfo]
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that a training run can see of it, in hex."""
        content = {
            "layout": asdict(self.layout),
            "tokenizer": self.tokenizer,
            "splits": {name: asdict(split) for name, split in self.splits.items()},
        }
        return hashlib.sha256(_canonical(content)).hexdigest()

    def path_of(self, file: str) -> str:
        """Returns the full path of one of its files."""
        return join_path(self.directory, file)

    def load_tokenizer(self) -> Tokenizer:
        """Loads the tokenizer.

        Raises:
            DataFormatError: If it is not the one the rows were made with.
        """
        path = self.path_of(TOKENIZER_FILE)
        tokenizer = Tokenizer(read_bytes(path))
        if tokenizer.fingerprint != self.tokenizer:
            raise DataFormatError(
                f"{path}: not the tokenizer that the rows were made with.\n"
                f"  records.json: {self.tokenizer}\n  file:         "
                f"{tokenizer.fingerprint}\nPrepare the records again.",
                path=path,
            )
        return tokenizer

    def to_json(self) -> bytes:
        """Returns the text of `records.json`."""
        content = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "source": self.source,
            "settings": dict(self.settings),
            "layout": {
                "source_length": self.layout.source_length,
                "target_length": self.layout.target_length,
                "dtype": "uint16, little-endian",
                "fields": list(FIELDS),
            },
            "tokenizer": self.tokenizer,
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "dropped": dict(self.dropped),
        }
        return json.dumps(content, indent=2).encode() + b"\n"

    @classmethod
    def open(cls, directory: PathLike, *, verify: bool = False) -> RecordSet:
        """Reads `records.json` and checks the files it names.

        Args:
            directory: Local or a URL.
            verify: Also reads every shard and compares its crc32c.

        Raises:
            DataFormatError: If there is none, or a file is missing, has another
                size or another checksum.
        """
        directory = path_text(directory)
        path = join_path(directory, RECORDS_FILE)
        try:
            content = _read_info(directory)
        except FileNotFoundError as error:
            raise DataFormatError(
                f"{path}: there is no prepared record set.", path=path
            ) from error
        except ValueError as error:
            raise DataFormatError(f"{path}: not JSON: {error}", path=path) from error
        except UnsafeFileError as error:
            raise DataFormatError(str(error), path=path) from error
        records = cls._parse(directory, content, path)
        records._check_files(verify=verify)
        return records

    @classmethod
    def _parse(cls, directory: str, content: Any, path: str) -> RecordSet:
        """Returns the record set that `content` describes.

        Raises:
            DataFormatError: If `content` is of another version or incomplete.
        """
        try:
            if content["format_version"] != FORMAT_VERSION:
                raise DataFormatError(
                    f"{path}: format version {content['format_version']}, this "
                    f"version reads {FORMAT_VERSION}. Prepare the records again.",
                    path=path,
                )
            content = _KIND.check(content, RECORDS_FILE)
            records = cls(
                directory=directory,
                source=content["source"],
                settings=content["settings"],
                layout=RowLayout(
                    content["layout"]["source_length"],
                    content["layout"]["target_length"],
                ),
                tokenizer=content["tokenizer"],
                splits={n: _parse_split(s) for n, s in content["splits"].items()},
                dropped=content["dropped"],
            )
        except DataFormatError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise DataFormatError(f"{path}: incomplete: {error}", path=path) from error
        if records.fingerprint != content.get("fingerprint"):
            raise DataFormatError(
                f"{path}: its content does not fit its fingerprint; it was changed "
                "by hand. Prepare the records again.",
                path=path,
            )
        return records

    def _check_files(self, *, verify: bool) -> None:
        """Checks that every file is there with its size, and its crc32c if asked.

        Raises:
            DataFormatError: If one is not.
        """
        row_bytes = 2 * self.layout.row_width
        for split in self.splits.values():
            for shard in split.shards:
                path = self.path_of(shard.file)
                expected = shard.num_rows * row_bytes
                found = _size(path)
                if found != expected:
                    raise DataFormatError(
                        f"{path}: {found} bytes, records.json says {expected}.\n"
                        "The record set is damaged: delete the directory and prepare "
                        "it again.",
                        path=path,
                    )
                if verify and crc32c_hex(read_bytes(path)) != shard.crc32c:
                    raise DataFormatError(
                        f"{path}: its crc32c is not the one in records.json "
                        f"({shard.crc32c}): damaged. Prepare the records again.",
                        path=path,
                    )


def _read_info(directory: str) -> Any:
    storage = open_storage(directory)
    return parse_json(storage.read_bytes(RECORDS_FILE, max_bytes=MAX_BYTES))


def _parse_split(content: Mapping[str, Any]) -> SplitInfo:
    shards = tuple(Shard(**shard) for shard in content["shards"])
    return SplitInfo(**{**content, "shards": shards})


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def join_path(directory: str, name: str) -> str:
    """Joins a local directory or URL and a name."""
    return f"{directory.rstrip('/')}/{name}"


def read_bytes(path: str) -> bytes:
    """Returns a file's content; `path` is local or a URL."""
    if "://" not in path:  # fsspec takes "::" in a name for a chain of URLs.
        with open(path, "rb") as file:
            return file.read()
    with fsspec.open(path, "rb") as file:
        content: bytes = file.read()
        return content


def _size(path: str) -> int | None:
    """Returns a shard's length; None if it is no regular file, such as a link."""
    directory, _, name = path.rpartition("/")
    storage = open_storage(directory)
    return storage.size(name) if storage.exists(name) else None


def crc32c_hex(content: bytes) -> str:
    """Returns the crc32c of `content` as eight hex digits."""
    return f"{google_crc32c.value(content):08x}"
