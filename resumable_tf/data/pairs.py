"""Reads English-German text pairs from any of the supported sources.

    reader = open_source("tsv:corpus.tsv.gz")
    for english, german in reader.read("train"):
        ...
    print(reader.bad_lines)         # Counter({'no tab': 3})

One flag names a source: `embedded`, `tfds:NAME/CONFIG`, `tsv:PATH` or
`moses:EN,DE`. Paths are local or URLs that fsspec knows (`gs://...`), plain or gzip.
"""

from __future__ import annotations

import codecs
import hashlib
import shlex
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Protocol

import fsspec

from resumable_tf.errors import DataFormatError, UsageError, without_secrets

Pair = tuple[str, str]

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)

# The mark of UTF-32 begins with that of UTF-16. With a mark, iconv needs no order.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_MAX_BAD_SHARE = 0.5
_HELD_OUT_ONE_IN = 100
_SOURCES = "embedded, tfds:NAME/CONFIG, tsv:PATH or moses:EN,DE"


class PairSource(Protocol):
    """Text pairs by split, with a count of the lines that could not be used.

    Attributes:
        name: The source as the user wrote it.
        bad_lines: Unusable lines by reason, of all splits read so far.
    """

    name: str
    bad_lines: Counter[str]

    def read(self, split: str) -> Iterator[Pair]:
        """Yields the pairs of `split`, each as (English, German)."""
        ...


def open_source(spec: str, *, work_directory: str | None = None) -> PairSource:
    """Returns the reader of the source that `--data` names.

    Args:
        spec: `embedded`, `tfds:NAME/CONFIG`, `tsv:PATH` or `moses:EN,DE`.
        work_directory: Where TFDS may keep what it prepares; TFDS's own default
            if None.

    Raises:
        UsageError: If `spec` is none of these.
    """
    kind, _, rest = spec.partition(":")
    if spec == "embedded" or (kind == "tfds" and rest):
        from resumable_tf.data.tfds_source import TfdsSource

        return TfdsSource(spec, data_dir=work_directory)
    if kind == "tsv" and rest:
        return LineSource(spec, read_lines=lambda bad: _read_tsv(rest, bad))
    if kind == "moses" and rest.count(",") == 1 and all(rest.split(",")):
        english, german = rest.split(",")
        return LineSource(spec, read_lines=lambda bad: _read_moses(english, german))
    raise UsageError(
        f"--data {without_secrets(spec)!r} names no source.\n  expected: {_SOURCES}\n"
        "Use one of these, for example --data tsv:corpus.tsv.gz."
    )


class LineSource:
    """Pairs from files that have no splits of their own.

    One pair in a hundred, chosen by a hash of its text, is held out: the
    validation set. So it does not depend on the order of lines, and equal lines
    fall into the same split. The test set is the same as the validation set.
    """

    def __init__(
        self, name: str, *, read_lines: _ReadLines, held_out_one_in: int | None = None
    ) -> None:
        """Keeps the reader; nothing is opened before `read`."""
        self.name = without_secrets(name)
        self.bad_lines: Counter[str] = Counter()
        self._read_lines = read_lines
        self._one_in = held_out_one_in or _HELD_OUT_ONE_IN

    def read(self, split: str) -> Iterator[Pair]:
        """Yields the pairs of `split`; bad lines are counted on the train split.

        Raises:
            DataFormatError: If the file is not what it should be: no tab in any
                line, another encoding, another number of lines, nothing left.
        """
        bad: Counter[str] = Counter()
        num_usable = 0
        for pair in clean_pairs(self._read_lines(bad), bad):
            num_usable += 1
            if self._is_held_out(pair) == (split != TRAIN):
                yield pair
        _check_share(self.name, num_usable, bad)
        if split == TRAIN:
            self.bad_lines.update(bad)

    def _is_held_out(self, pair: Pair) -> bool:
        digest = hashlib.sha256("\t".join(pair).encode()).digest()
        return int.from_bytes(digest[:8], "little") % self._one_in == 0


class _ReadLines(Protocol):
    def __call__(self, bad: Counter[str], /) -> Iterator[Pair]: ...


def clean_pairs(pairs: Iterable[Pair], bad: Counter[str]) -> Iterator[Pair]:
    """Yields the usable pairs in Unicode NFC, white space folded to single blanks.

    Args:
        pairs: Raw pairs.
        bad: Counts the dropped pairs by reason, in place.
    """
    for raw_english, raw_german in pairs:
        english, german = _fold(raw_english), _fold(raw_german)
        if not english or not german:
            bad["empty side"] += 1
        elif "\ufffd" in english or "\ufffd" in german:
            bad["replacement character"] += 1
        else:
            yield english, german


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _open_binary(path: str) -> Iterator[bytes]:
    compression = "gzip" if path.endswith(".gz") else None
    with fsspec.open(path, "rb", compression=compression) as file:
        yield from file


def _decode(lines: Iterable[bytes], path: str) -> Iterator[str]:
    """Yields text lines.

    A byte sequence that is not UTF-8 ends the reading at once: a file in another
    encoding decodes "mostly", and training on what is left would hide it.

    Raises:
        DataFormatError: If a line is not UTF-8, or has a NUL.
    """
    for number, line in enumerate(lines, start=1):
        if number == 1:
            _check_first_line(line, path)
            line = line.removeprefix(b"\xef\xbb\xbf")
        if b"\0" in line:
            raise DataFormatError(
                f"{path}: line {number} has NUL characters; text has none.\n"
                f"  found:    {line[:40]!r}\n"
                "It may be binary, or UTF-16: find out with the command `file`.",
                path=path,
            )
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataFormatError(
                f"{path}: line {number} is not UTF-8 text.\n"
                f"  found:    {line[:40]!r} ({error.reason} at byte {error.start})\n"
                "  expected: UTF-8\n"
                "Convert it first. Text from Windows is often in windows-1252: "
                f"iconv -f windows-1252 -t utf-8 {shlex.quote(path)}",
                path=path,
            ) from error


def _check_first_line(line: bytes, path: str) -> None:
    """Refuses UTF-16 and UTF-32, which begin with a mark or have NULs all over.

    Raises:
        DataFormatError: If it is one of them.
    """
    encoding = next((name for mark, name in _MARKS if line.startswith(mark)), None)
    if encoding is None and line.count(b"\0") >= len(line) // 3 > 0:
        is_wide = line.count(b"\0\0") >= len(line) // 5 > 0
        is_big = line.startswith(b"\0")
        encoding = f"UTF-{32 if is_wide else 16}{'BE' if is_big else 'LE'}"
    if encoding is not None:
        raise DataFormatError(
            f"{path}: it is {encoding} text.\n"
            f"  found:    {line[:40]!r}\n  expected: UTF-8\n"
            f"Convert it first: iconv -f {encoding} -t utf-8 {shlex.quote(path)}",
            path=path,
        )


def _read_tsv(path: str, bad: Counter[str]) -> Iterator[Pair]:
    num_lines = num_tabs = 0
    shown = without_secrets(path)
    for line in _decode(_open_lines(path), shown):
        num_lines += 1
        fields = line.split("\t")
        if len(fields) == 2:
            num_tabs += 1
            yield fields[0], fields[1]
        elif line.strip():
            bad["no tab" if len(fields) == 1 else "more than one tab"] += 1
        else:
            bad["empty line"] += 1
    if not num_tabs:
        raise DataFormatError(
            f"{shown}: none of its {num_lines} lines has exactly one tab.\n"
            "  expected: english<TAB>german, one pair a line\n"
            "For two line-aligned files use --data moses:EN,DE.",
            path=shown,
        )


def _read_moses(english_path: str, german_path: str) -> Iterator[Pair]:
    lines = _open_lines(english_path), _open_lines(german_path)
    english_path = without_secrets(english_path)
    german_path = without_secrets(german_path)
    english = _decode(lines[0], english_path)
    german = _decode(lines[1], german_path)
    counts = [0, 0]
    for sides in zip_longest(english, german):
        counts = [n + (side is not None) for n, side in zip(counts, sides, strict=True)]
        if None not in sides:
            yield sides
    if counts[0] != counts[1]:
        raise DataFormatError(
            f"{english_path} and {german_path} are not line-aligned.\n"
            f"  {english_path}: {counts[0]} lines\n  {german_path}: {counts[1]} lines\n"
            "Line n of one must be the translation of line n of the other.",
            path=english_path,
        )


def _open_lines(path: str) -> Iterator[bytes]:
    """Yields the raw lines of a plain or gzip file.

    Raises:
        DataFormatError: If it is not there or is a damaged gzip file.
    """
    # What is raised names no password; nor does the error behind it.
    shown = without_secrets(path)
    try:
        yield from _open_binary(path)
    except FileNotFoundError:
        raise DataFormatError(f"{shown}: there is no such file.", path=shown) from None
    except (EOFError, OSError, ValueError, ImportError, zlib.error) as error:
        said = without_secrets(str(error).replace(path, shown))
        raise DataFormatError(f"{shown}: can't be read: {said}", path=shown) from None


def _check_share(name: str, num_usable: int, bad: Counter[str]) -> None:
    """Refuses a file that is mostly bad lines.

    Raises:
        DataFormatError: If nothing or less than half of the lines is usable.
    """
    num_bad = bad.total() - bad["empty line"]
    if num_usable == 0 or num_bad > _MAX_BAD_SHARE * (num_bad + num_usable):
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad.most_common())
        raise DataFormatError(
            f"--data {name}: {num_usable} usable pairs are left of "
            f"{num_bad + num_usable} lines ({reasons or 'the file is empty'}).\n"
            "Check the format: english<TAB>german, or two line-aligned files.",
            path=name,
        )
