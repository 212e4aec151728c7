"""The embedded corpus is the one its README describes, and TFDS reads all of it."""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path

import pytest

from resumable_tf.data import embedded
from resumable_tf.data.tfds_source import TfdsSource

CORPUS = Path(embedded.__file__).parent / "corpus"
ROW = re.compile(r"\| `([\w.]+\.gz)` \| ([\d,]+)(?: lines)? \| ([\d,]+) \| `(\w{64})`")
NUM_PAIRS = {"train": 79_843, "validation": 2_000, "test": 2_000}


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_corpus_files_are_those_in_the_table_of_its_readme() -> None:
    rows = ROW.findall((CORPUS / "README.md").read_text(encoding="utf-8"))
    assert sorted(row[0] for row in rows) == sorted(p.name for p in CORPUS.glob("*.gz"))
    for name, num_lines, size, digest in rows:
        content = (CORPUS / name).read_bytes()
        assert len(content) == number(size)
        assert hashlib.sha256(content).hexdigest() == digest
        assert gzip.decompress(content).count(b"\n") == number(num_lines)


def test_each_corpus_line_is_one_pair_and_counts_are_exact() -> None:
    for file, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
        lines = gzip.decompress((CORPUS / f"{file}.tsv.gz").read_bytes()).splitlines()
        assert len(lines) == NUM_PAIRS[split]
        assert all(line.count(b"\t") == 1 for line in lines)


@pytest.mark.slow
def test_tfds_builder_gives_every_pair_of_the_corpus_as_en_and_de(
    tmp_path: Path,
) -> None:
    import tensorflow as tf

    builder = embedded.EmbeddedEnDe(data_dir=str(tmp_path))
    builder.download_and_prepare()
    counts = {name: info.num_examples for name, info in builder.info.splits.items()}
    assert counts == NUM_PAIRS
    spec = builder.as_dataset(split="test").element_spec
    assert spec == {name: tf.TensorSpec([], tf.string) for name in ("en", "de")}
    source = TfdsSource("embedded", data_dir=str(tmp_path))
    for file, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
        with gzip.open(CORPUS / f"{file}.tsv.gz", "rt", encoding="utf-8") as text:
            expected = sorted(line.rstrip("\n") for line in text)
        assert sorted("\t".join(pair) for pair in source.read(split)) == expected
    assert not source.bad_lines


@pytest.mark.slow
def test_embedded_pairs_come_in_the_same_order_from_two_preparations(
    tmp_path: Path,
) -> None:
    first, second = (
        list(TfdsSource("embedded", data_dir=str(tmp_path / name)).read("validation"))
        for name in ("a", "b")
    )
    assert first == second
