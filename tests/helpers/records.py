"""Small record sets, made at once without a corpus or a tokenizer."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resumable_tf.data.dataset import RecordDataset
from resumable_tf.data.packing import FIELDS
from resumable_tf.data.record_files import (
    RECORDS_FILE,
    RecordSet,
    RowLayout,
    Shard,
    SplitInfo,
    crc32c_hex,
)

Rows = dict[str, npt.NDArray[np.uint16]]

SMALL_LAYOUT = RowLayout(3, 4)

_WORDS = (
    ("the", "der"),
    ("file", "Datei"),
    ("open", "öffnen"),
    ("window", "Fenster"),
    ("new", "neu"),
    ("save", "speichern"),
    ("page", "Seite"),
    ("large", "groß"),
    ("text", "Text"),
    ("color", "Farbe"),
)


def text_pairs(num_pairs: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Returns distinct (English, German) pairs of 3 to 11 words."""
    generator = random.Random(seed)
    pairs = []
    for index in range(num_pairs):
        words = generator.choices(_WORDS, k=generator.randint(2, 10))
        english = " ".join([english for english, _ in words] + [str(index)])
        german = " ".join([german for _, german in words] + [str(index)])
        pairs.append((english, german))
    return pairs


def write_tsv(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    """Writes pairs as lines `english<TAB>german`."""
    path.write_text("".join(f"{e}\t{g}\n" for e, g in pairs), encoding="utf-8")
    return path


def random_rows(num_rows: int, layout: RowLayout, *, first_id: int) -> Rows:
    """Returns rows whose first source value is a number of their own."""
    generator = np.random.default_rng(first_id)
    rows = {
        name: generator.integers(0, 65536, size=(num_rows, width)).astype(np.uint16)
        for name, width in zip(FIELDS, layout.widths, strict=True)
    }
    rows["source"][:, 0] = np.arange(first_id, first_id + num_rows)
    return rows


def write_records(
    directory: Path,
    shard_sizes: Sequence[int],
    *,
    layout: RowLayout = SMALL_LAYOUT,
    validation_sizes: Sequence[int] = (5,),
) -> tuple[RecordSet, list[Rows]]:
    """Writes a committed record set of random rows; returns it and its train shards."""
    directory.mkdir(parents=True, exist_ok=True)
    splits, train_rows = {}, []
    for split, sizes in (("train", shard_sizes), ("validation", validation_sizes)):
        shards, first_id = [], 0
        for index, size in enumerate(sizes):
            rows = random_rows(size, layout, first_id=first_id)
            content = layout.encode(rows)
            file = f"{split}-{index:05d}-of-{len(sizes):05d}.bin"
            (directory / file).write_bytes(content)
            shards.append(Shard(file, size, crc32c_hex(content)))
            first_id += size
            if split == "train":
                train_rows.append(rows)
        splits[split] = SplitInfo(first_id, first_id, 0, 0.0, tuple(shards))
    records = RecordSet(
        directory=str(directory),
        source="test",
        settings={},
        layout=layout,
        tokenizer="none",
        splits=splits,
    )
    (directory / RECORDS_FILE).write_bytes(records.to_json())
    return RecordSet.open(str(directory)), train_rows


def reference_stream(dataset: RecordDataset, shards: Sequence[Rows]) -> Iterator[Rows]:
    """Yields the batches of `dataset` from step 0 on, computed in NumPy alone."""
    pending: list[Rows] = []
    visit = 0
    while True:
        while len(pending) < dataset.global_batch_size:
            epoch, place = divmod(visit, len(shards))
            shard = shards[dataset.shard_order(epoch)[place]]
            for row in dataset.row_order(visit):
                pending.append({name: shard[name][row] for name in FIELDS})
            visit += 1
        batch = pending[: dataset.global_batch_size]
        pending = pending[dataset.global_batch_size :]
        yield {name: np.stack([row[name] for row in batch]) for name in FIELDS}


def digests(directory: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file under `directory`, by relative path."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
