"""Turns text pairs into a committed record set, once.

    records = prepare_records("embedded", "records", settings=PrepareSettings())

Preparing is a pure function of the source and the settings, and `records.json` is
its commit: when a process is killed half-way, the next one does it again and gets
the same bytes. A directory that already holds a set made of something else is
refused, never overwritten.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain

from resumable_tf.data.packing import TokenPair, fits, pack, padding_share
from resumable_tf.data.pairs import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Pair,
    PairSource,
    open_source,
)
from resumable_tf.data.record_files import (
    RECORDS_FILE,
    TOKENIZER_FILE,
    RecordSet,
    RowLayout,
    Shard,
    SplitInfo,
    crc32c_hex,
    join_path,
    read_bytes,
)
from resumable_tf.data.tokenizer import Tokenizer, train_tokenizer
from resumable_tf.errors import (
    DataFormatError,
    DataMismatchError,
    UsageError,
    without_secrets,
)
from resumable_tf.storage import PathLike, open_storage, path_text

logger = logging.getLogger(__name__)

_LARGE_CORPUS_PAIRS = 500_000
_DEFAULT_VOCAB, _LARGE_VOCAB = 8_000, 32_000


@dataclass(frozen=True)
class PrepareSettings:
    """What decides the content of a record set, beside its source.

    Attributes:
        vocab_size: SentencePiece pieces; 8,000, or 32,000 for more than 500,000
            pairs, if None.
        target_length: Tokens of a row's target side, T. The source side is as much
            shorter or longer as the source texts are.
        rows_per_shard: Rows in each shard but the last; all rows of one shard are
            held in memory while they are read.
        seed: Seed of the one global shuffle of the pairs.
    """

    vocab_size: int | None = None
    target_length: int = 128
    rows_per_shard: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            UsageError: If a value can't work.
        """
        if not 8 <= self.target_length <= 4096:
            raise UsageError(
                f"--row-length {self.target_length}: use 8 to 4096 tokens."
            )
        if self.vocab_size is not None and not 64 <= self.vocab_size <= 65_535:
            raise UsageError(f"--vocab-size {self.vocab_size}: use 64 to 65535 pieces.")
        if self.rows_per_shard < 1:
            raise UsageError(
                f"rows_per_shard is {self.rows_per_shard}; use at least 1."
            )


def prepare_records(
    source: PathLike, directory: PathLike, *, settings: PrepareSettings
) -> RecordSet:
    """Returns the record set in `directory`, making it first if there is none.

    Args:
        source: What `--data` names.
        directory: Local or a URL.
        settings: What decides its content.

    Raises:
        DataFormatError: If the source can't be read or gives no pair.
        DataMismatchError: If `directory` holds a set of another source or settings.
        UsageError: If `source` or a setting can't work.
    """
    source, directory = path_text(source), path_text(directory)
    if open_storage(directory).exists(RECORDS_FILE):
        records = RecordSet.open(directory)
        _check_same(records, source, settings)
        return records
    logger.info("preparing records of %s in %s", without_secrets(source), directory)
    work_directory = None if "://" in directory else join_path(directory, "tfds")
    reader = open_source(source, work_directory=work_directory)
    return _Preparation(reader, directory, settings).run()


def read_test_pairs(records: RecordSet) -> list[Pair]:
    """Returns the test pairs that were kept, as text, beside the records."""
    text = read_bytes(records.path_of(f"{TEST}.tsv")).decode()
    return [(line.split("\t")[0], line.split("\t")[1]) for line in text.splitlines()]


def _check_same(records: RecordSet, source: str, settings: PrepareSettings) -> None:
    """Refuses a record set that was made of something else.

    Raises:
        DataMismatchError: If it was.
    """
    saved = {"source": records.source, **records.settings}
    now = {"source": without_secrets(source), **asdict(settings)}
    if saved != now:
        raise DataMismatchError(
            f"{records.directory} holds records made with other settings.\n"
            f"  there: {saved}\n  now:   {now}\n"
            "Use the same settings, or another --records directory.",
            saved=saved,
            now=now,
        )


class _Preparation:
    """One preparation: read, learn the tokenizer, encode, pack, write, commit."""

    def __init__(
        self, reader: PairSource, directory: str, settings: PrepareSettings
    ) -> None:
        self.reader = reader
        self.directory = directory
        self.settings = settings
        self.storage = open_storage(directory)
        self.dropped: Counter[str] = Counter()

    def run(self) -> RecordSet:
        self.storage.remove_partial_writes("")
        pairs = {split: list(self.reader.read(split)) for split in SPLITS}
        if not pairs[TRAIN] or not pairs[VALIDATION]:
            raise DataFormatError(
                f"--data {self.reader.name}: {len(pairs[TRAIN])} pairs for training "
                f"and {len(pairs[VALIDATION])} for validation; both must have some.\n"
                "Use a larger file.",
                path=self.reader.name,
            )
        random.Random(self.settings.seed).shuffle(pairs[TRAIN])
        tokenizer = self._make_tokenizer(pairs[TRAIN])
        tokens = {
            split: self._encode(tokenizer, pairs[split])
            for split in (TRAIN, VALIDATION)
        }
        layout = self._choose_layout(tokens[TRAIN])
        splits = {name: self._write(name, tokens[name], layout) for name in tokens}
        self.storage.write_bytes(TOKENIZER_FILE, tokenizer.model)
        lines = "".join(f"{english}\t{german}\n" for english, german in pairs[TEST])
        self.storage.write_bytes(f"{TEST}.tsv", lines.encode())
        records = RecordSet(
            directory=self.directory,
            source=self.reader.name,
            settings=asdict(self.settings),
            layout=layout,
            tokenizer=tokenizer.fingerprint,
            splits=splits,
            dropped=dict(self.dropped + self.reader.bad_lines),
        )
        self._commit(records)
        return records

    def _make_tokenizer(self, pairs: Sequence[Pair]) -> Tokenizer:
        large = len(pairs) > _LARGE_CORPUS_PAIRS
        vocab_size = self.settings.vocab_size or (
            _LARGE_VOCAB if large else _DEFAULT_VOCAB
        )
        sentences = chain.from_iterable(pairs)
        return Tokenizer(train_tokenizer(sentences, vocab_size=vocab_size))

    def _encode(self, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[TokenPair]:
        english, german = zip(*pairs, strict=True)
        return list(
            zip(tokenizer.encode(english), tokenizer.encode(german), strict=True)
        )

    def _choose_layout(self, tokens: Sequence[TokenPair]) -> RowLayout:
        num_source = sum(len(source) + 1 for source, _ in tokens)
        num_target = sum(len(target) + 1 for _, target in tokens)
        length = self.settings.target_length
        return RowLayout(max(8, round(length * num_source / num_target)), length)

    def _write(
        self, split: str, tokens: Sequence[TokenPair], layout: RowLayout
    ) -> SplitInfo:
        """Packs and writes one split.

        Raises:
            DataFormatError: If no pair of it fits into a row.
        """
        lengths = asdict(layout)
        fitting = [pair for pair in tokens if fits(pair, **lengths)]
        if split == TRAIN and len(fitting) < len(tokens):
            self.dropped["too long for a row"] = len(tokens) - len(fitting)
        if not fitting:
            raise DataFormatError(
                f"--data {self.reader.name}: no {split} pair fits into a row of "
                f"{layout.source_length} and {layout.target_length} tokens.\n"
                "Use a larger --row-length.",
                path=self.reader.name,
            )
        rows = pack(fitting, **lengths)
        num_rows, size = len(rows["source"]), self.settings.rows_per_shard
        starts = range(0, num_rows, size)
        shards = []
        for index, start in enumerate(starts):
            part = {name: array[start : start + size] for name, array in rows.items()}
            content = layout.encode(part)
            file = f"{split}-{index:05d}-of-{len(starts):05d}.bin"
            self.storage.write_bytes(file, content)
            shards.append(Shard(file, len(part["source"]), crc32c_hex(content)))
        return SplitInfo(
            num_pairs=len(fitting),
            num_rows=num_rows,
            num_tokens=sum(len(s) + len(t) + 2 for s, t in fitting),
            padding=padding_share(rows),
            shards=tuple(shards),
        )

    def _commit(self, records: RecordSet) -> None:
        train = records.splits[TRAIN]
        logger.info(
            "%d pairs in %d rows of %d and %d tokens, %.1f%% padding; dropped: %s",
            train.num_pairs,
            train.num_rows,
            records.layout.source_length,
            records.layout.target_length,
            100 * train.padding,
            dict(records.dropped) or "none",
        )
        self.storage.write_bytes(RECORDS_FILE, records.to_json())
