"""Reading text pairs: what is accepted, what is counted, what is refused and how."""

from __future__ import annotations

import gzip
import os
import unicodedata
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.records import text_pairs, write_tsv
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.data.pairs import LineSource, clean_pairs, open_source
from resumable_tf.data.tfds_source import TfdsSource
from resumable_tf.errors import DataFormatError, UsageError

PAIRS = text_pairs(250)
LINES = "".join(f"{english}\t{german}\n" for english, german in PAIRS).encode()
BOM = b"\xef\xbb\xbf"


def read_all(spec: str) -> set[tuple[str, str]]:
    source = open_source(spec)
    train, held_out = (list(source.read(split)) for split in ("train", "validation"))
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == len(set(train) | set(held_out))
    return set(train) | set(held_out)


def damaged_gzip() -> bytes:
    content = bytearray(gzip.compress(LINES))
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", LINES),
        ("a.tsv.gz", gzip.compress(LINES)),
        ("bom.tsv", BOM + LINES),
        ("bom.tsv.gz", gzip.compress(BOM + LINES)),
        ("crlf.tsv", LINES.replace(b"\n", b"\r\n")),
        ("no_last_newline.tsv", LINES.rstrip(b"\n")),
        ("blanks.tsv", LINES.replace(b" ", "  \u00a0".encode())),
        ("decomposed.tsv", unicodedata.normalize("NFD", LINES.decode()).encode()),
    ],
)
def test_tsv_gives_every_pair_once_whatever_its_container(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_all(f"tsv:{tmp_path / name}") == set(PAIRS)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("prefix", [b"", BOM])
def test_moses_gives_line_n_of_both_files(
    tmp_path: Path, suffix: str, prefix: bytes
) -> None:
    paths = []
    for side, name in enumerate(("en", "de")):
        text = prefix + "".join(pair[side] + "\n" for pair in PAIRS).encode()
        paths.append(tmp_path / f"text.{name}{suffix}")
        paths[-1].write_bytes(gzip.compress(text) if suffix else text)
    assert read_all(f"moses:{paths[0]},{paths[1]}") == set(PAIRS)


def test_tsv_is_read_from_a_url(tmp_path: Path) -> None:
    write_tsv(tmp_path / "a.tsv", PAIRS)
    assert read_all(f"tsv:file://{tmp_path}/a.tsv") == set(PAIRS)


def test_held_out_pairs_do_not_depend_on_the_order_of_lines(tmp_path: Path) -> None:
    forward = write_tsv(tmp_path / "forward.tsv", PAIRS)
    backward = write_tsv(tmp_path / "backward.tsv", PAIRS[::-1])
    held_out = [
        set(open_source(f"tsv:{path}").read("validation"))
        for path in (forward, backward)
    ]
    assert held_out[0] == held_out[1]
    assert set(open_source(f"tsv:{forward}").read("test")) == held_out[0]


def test_about_one_pair_in_a_hundred_is_held_out() -> None:
    pairs = text_pairs(5000)
    source = LineSource("test", read_lines=lambda bad: iter(pairs))
    # Binomial(5000, 1/100): 50, deviation 7.
    assert 20 <= len(list(source.read("validation"))) <= 80


def test_bad_lines_are_counted_by_reason_once(tmp_path: Path) -> None:
    bad = (
        "no tab here\n" * 3
        + "one\ttwo\tthree\n" * 2
        + "\n \n\n"
        + "english\t \n\tdeutsch\n"
        + "broken \ufffd\tkaputt\n"
    )
    path = tmp_path / "a.tsv"
    path.write_bytes(bad.encode() + LINES)
    source = open_source(f"tsv:{path}")
    for split in ("train", "validation", "test"):
        list(source.read(split))
    assert source.bad_lines == Counter(
        {
            "no tab": 3,
            "more than one tab": 2,
            "empty line": 3,
            "empty side": 2,
            "replacement character": 1,
        }
    )


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"english deutsch\n" * 4, "none of its 4 lines has exactly one tab.*moses:EN"),
        (b"", "none of its 0 lines"),
        ("a\tgr\u00f6\u00dfer\n".encode("latin-1"), "line 1 is not UTF-8.*iconv"),
        (LINES + "a\tgr\u00f6\u00dfer\n".encode("cp1252"), "line 251 is not UTF-8"),
        (LINES.decode().encode("utf-16"), "it is UTF-16 text"),
        (b"english\t \n" * 3, "0 usable pairs are left of 3 lines .3 empty side"),
        (LINES + b"no tab\n" * 251, "250 usable pairs are left of 501.*251 no tab"),
    ],
)
def test_tsv_that_is_none_is_refused_with_the_cause(
    tmp_path: Path, content: bytes, advice: str
) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(content)
    with pytest.raises(DataFormatError, match=f"(?s){advice}") as raised:
        list(open_source(f"tsv:{path}").read("train"))
    assert str(path) in raised.value.path


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (gzip.compress(LINES)[:-40], "can't be read"),
        (LINES, "can't be read: Not a gzipped file"),
        (damaged_gzip(), "can't be read"),
    ],
)
def test_damaged_gzip_is_refused_with_its_path(
    tmp_path: Path, content: bytes, cause: str
) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(content)
    with pytest.raises((EOFError, OSError, zlib.error)):
        gzip.decompress(content)
    with pytest.raises(DataFormatError, match=f"a.tsv.gz: {cause}"):
        list(open_source(f"tsv:{path}").read("train"))


@pytest.mark.parametrize("spec", ["tsv:{}/none.tsv", "moses:{}/none.en,{}/none.de"])
def test_missing_file_is_named(tmp_path: Path, spec: str) -> None:
    with pytest.raises(DataFormatError, match=r"none.*there is no such file"):
        list(open_source(spec.replace("{}", str(tmp_path))).read("train"))


@pytest.mark.parametrize(("num_english", "num_german"), [(7, 9), (9, 7), (1, 0)])
def test_files_of_uneven_line_counts_are_refused_with_both_counts(
    tmp_path: Path, num_english: int, num_german: int
) -> None:
    for name, number in (("en", num_english), ("de", num_german)):
        (tmp_path / name).write_text("a line\n" * number)
    spec = f"moses:{tmp_path}/en,{tmp_path}/de"
    advice = f"(?s)not line-aligned.*: {num_english} lines.*: {num_german} lines"
    with pytest.raises(DataFormatError, match=advice):
        list(open_source(spec).read("train"))


@pytest.mark.parametrize(
    "spec", ["", "tsv:", "tsv", "csv:a", "moses:a", "moses:a,", "moses:a,b,c", "tfds:"]
)
def test_unknown_source_is_refused_with_the_known_ones(spec: str) -> None:
    with pytest.raises(UsageError, match=r"(?s)names no source.*moses:EN,DE.*Use one"):
        open_source(spec)


def test_nothing_is_opened_before_the_first_read(tmp_path: Path) -> None:
    open_source(f"tsv:{tmp_path}/none.tsv").read("train")
    open_source("tfds:no_such_set")
    open_source("embedded")
    assert os.listdir(tmp_path) == []


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=20))
def test_clean_pairs_are_one_line_of_nfc_each_and_the_rest_is_counted(
    raw: list[tuple[str, str]],
) -> None:
    bad: Counter[str] = Counter()
    clean = list(clean_pairs(raw, bad))
    assert len(clean) + bad.total() == len(raw)
    for text in (side for pair in clean for side in pair):
        assert text and text.splitlines() == [text]
        assert "\t" not in text and "\ufffd" not in text
        assert text == unicodedata.normalize("NFC", text) == text.strip()
    assert list(clean_pairs(clean, Counter())) == clean


class FakeBuilder:
    """A TFDS builder with the given splits and features, and nothing else."""

    def __init__(self, splits: list[str], features: list[str]) -> None:
        self.info = self
        self.splits, self.features = splits, features

    def download_and_prepare(self) -> None:
        pass

    def as_dataset(self, *, split: str, **_: Any) -> Any:
        import tensorflow as tf

        english, german = ["a b", split, " "], ["c d", split, "e"]
        return tf.data.Dataset.from_tensor_slices({"en": english, "de": german})


def fake_source(
    monkeypatch: pytest.MonkeyPatch, splits: list[str], features: list[str]
) -> TfdsSource:
    builder = FakeBuilder(splits, features)
    monkeypatch.setattr(TfdsSource, "_load_builder", lambda self, name: builder)
    return TfdsSource("tfds:fake/de-en")


def test_tfds_set_without_a_validation_split_gives_its_test_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = fake_source(monkeypatch, ["train", "test"], ["de", "en"])
    read = {split: list(source.read(split)) for split in ("train", "validation")}
    assert read["train"] == [("a b", "c d"), ("train", "train")]
    assert read["validation"] == [("a b", "c d"), ("test", "test")]
    assert source.bad_lines == Counter({"empty side": 1})


@pytest.mark.parametrize(
    ("splits", "features", "advice"),
    [
        (["train"], ["de", "en"], r"no split 'validation', only \['train'\]"),
        (["validation"], ["en", "fr"], r"(?s)\['en', 'fr'\].*such as tfds:wmt14"),
    ],
)
def test_tfds_set_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    splits: list[str],
    features: list[str],
    advice: str,
) -> None:
    with pytest.raises(DataFormatError, match=advice):
        list(fake_source(monkeypatch, splits, features).read("validation"))


@pytest.mark.parametrize(
    "name",
    [
        "no_such_set_at_all/de-en",
        "wmt14_translate/no-such-config",
        "wmt14_translate/de-en:9.9.9",
        "not a name",
    ],
)
def test_unknown_tfds_set_config_or_version_is_a_usage_error(
    tmp_path: Path, name: str
) -> None:
    source = TfdsSource(f"tfds:{name}", data_dir=str(tmp_path))
    with pytest.raises(
        UsageError, match=r"--data tfds:.*TFDS has no such set"
    ) as error:
        list(source.read("train"))
    assert len(str(error.value).splitlines()) < 20
