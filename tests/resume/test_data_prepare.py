"""Preparing records is exact, survives a kill anywhere, and never overwrites."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.records import digests, text_pairs, write_tsv
from helpers.settings import SETTINGS

from resumable_tf.data.dataset import evaluation_batches
from resumable_tf.data.packing import FIELDS, unpack
from resumable_tf.data.pairs import open_source
from resumable_tf.data.prepare import (
    PrepareSettings,
    prepare_records,
    read_test_pairs,
)
from resumable_tf.data.record_files import RECORDS_FILE, RecordSet
from resumable_tf.errors import DataFormatError, DataMismatchError, UsageError
from resumable_tf.storage import LocalStorage

TESTS = Path(__file__).parent.parent


class KilledError(BaseException):
    """Stands for a kill: nothing of ours may catch it."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "pairs.tsv"
    return f"tsv:{write_tsv(path, text_pairs(500))}"


@pytest.fixture(scope="module")
def undisturbed(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed")
    prepare_records(source, str(directory), settings=SETTINGS)
    return directory


def count_operations(
    monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> Callable[[], int]:
    """Kills at file operation number `fail_at`; returns how many there were."""
    num_done = 0
    write_bytes = LocalStorage.write_bytes

    def write(self: LocalStorage, name: str, data: bytes) -> None:
        nonlocal num_done
        if num_done == fail_at:
            raise KilledError
        num_done += 1
        write_bytes(self, name, data)

    monkeypatch.setattr(LocalStorage, "write_bytes", write)
    return lambda: num_done


def test_prepared_rows_hold_each_pair_of_the_source_exactly_once(
    source: str, undisturbed: Path
) -> None:
    records = RecordSet.open(str(undisturbed), verify=True)
    tokenizer = records.load_tokenizer()
    for split, info in records.splits.items():
        texts: Counter[tuple[str, ...]] = Counter()
        batches = evaluation_batches(records, split, batch_size=info.num_rows)
        (rows,) = batches.as_numpy_iterator()
        for pair in unpack(rows):
            texts[tuple(tokenizer.decode(pair))] += 1
        assert texts == Counter(open_source(source).read(split))
        assert info.num_pairs == texts.total()
        segments = [rows[f"{side}_segments"] for side in ("source", "target")]
        assert info.num_tokens == sum(int((s > 0).sum()) for s in segments)
        np.testing.assert_allclose(
            info.padding, 1 - info.num_tokens / sum(s.size for s in segments)
        )
    assert read_test_pairs(records) == list(open_source(source).read("test"))


def test_only_the_last_shard_is_shorter_and_all_settings_are_recorded(
    source: str, undisturbed: Path
) -> None:
    records = RecordSet.open(str(undisturbed))
    sizes = [shard.num_rows for shard in records.splits["train"].shards]
    assert len(sizes) > 4 and set(sizes[:-1]) == {16} and 0 < sizes[-1] <= 16
    assert records.source == source
    assert records.settings["vocab_size"] == records.load_tokenizer().vocab_size == 150


def test_a_second_start_changes_nothing(source: str, undisturbed: Path) -> None:
    before = digests(undisturbed)
    again = prepare_records(source, str(undisturbed), settings=SETTINGS)
    assert again == RecordSet.open(str(undisturbed))
    assert digests(undisturbed) == before


def test_kill_at_each_write_then_a_new_start_gives_identical_bytes(
    source: str, undisturbed: Path, tmp_path: Path
) -> None:
    fail_at, is_finished = 0, False
    while not is_finished:
        directory = tmp_path / str(fail_at)
        with pytest.MonkeyPatch.context() as patch:
            count_operations(patch, fail_at)
            try:
                prepare_records(source, str(directory), settings=SETTINGS)
                is_finished = True
            except KilledError:
                fail_at += 1
                assert not (directory / RECORDS_FILE).exists()
        prepare_records(source, str(directory), settings=SETTINGS)
        assert digests(directory) == digests(undisturbed)
    num_files = len(digests(undisturbed))
    assert fail_at == num_files  # each data file, and the commit


def test_kill_between_the_temporary_and_the_final_records_json(
    source: str, undisturbed: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        replace = os.replace

        def die(source: str, target: str, **directories: int) -> None:
            if str(target).endswith(RECORDS_FILE):
                raise KilledError
            replace(source, target, **directories)

        patch.setattr("os.replace", die)
        with pytest.raises(KilledError):
            prepare_records(source, str(tmp_path), settings=SETTINGS)
    assert not (tmp_path / RECORDS_FILE).exists()
    prepare_records(source, str(tmp_path), settings=SETTINGS)
    assert digests(tmp_path) == digests(undisturbed)


@pytest.mark.crash
def test_sigkill_half_way_through_a_shard_then_a_new_start_gives_identical_bytes(
    source: str, undisturbed: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    script = TESTS / "helpers" / "prepare_and_die.py"
    command = [sys.executable, str(script), source, str(tmp_path), "2"]
    killed = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr.decode()
    names = sorted(path.name for path in tmp_path.glob("*.bin"))
    assert len(names) == 3 and not (tmp_path / RECORDS_FILE).exists()
    torn = (tmp_path / names[2]).stat().st_size
    assert 0 < torn < (undisturbed / names[2]).stat().st_size
    prepare_records(source, str(tmp_path), settings=SETTINGS)
    assert digests(tmp_path) == digests(undisturbed)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"vocab_size": 151},
        {"target_length": 33},
        {"rows_per_shard": 8},
        {"source": "tsv:another.tsv"},
    ],
    ids=str,
)
def test_records_of_other_settings_are_refused_and_left_alone(
    source: str, undisturbed: Path, change: dict[str, Any]
) -> None:
    before = digests(undisturbed)
    settings = {name: value for name, value in change.items() if name != "source"}
    with pytest.raises(DataMismatchError, match=r"(?s)there: .*now: .*--records") as e:
        prepare_records(
            change.get("source", source),
            str(undisturbed),
            settings=replace(SETTINGS, **settings),
        )
    assert digests(undisturbed) == before
    for name, value in change.items():
        assert e.value.now[name] == value != e.value.saved[name]


def test_damaged_records_are_refused_and_not_made_again(
    source: str, undisturbed: Path, tmp_path: Path
) -> None:
    prepare_records(source, str(tmp_path), settings=SETTINGS)
    (tmp_path / "train-00001-of-00005.bin").write_bytes(b"")
    shard = next(iter(sorted(tmp_path.glob("train-*.bin"))))
    shard.write_bytes(shard.read_bytes()[:-2])
    before = digests(tmp_path)
    with pytest.raises(DataFormatError, match="damaged"):
        prepare_records(source, str(tmp_path), settings=SETTINGS)
    assert digests(tmp_path) == before


def test_another_tokenizer_beside_the_rows_is_refused(
    source: str, tmp_path: Path
) -> None:
    records = prepare_records(source, str(tmp_path), settings=SETTINGS)
    smaller = replace(SETTINGS, vocab_size=140)
    other = prepare_records(source, str(tmp_path / "other"), settings=smaller)
    (tmp_path / "tokenizer.model").write_bytes(other.load_tokenizer().model)
    with pytest.raises(DataFormatError, match=r"(?s)not the tokenizer.*Prepare"):
        records.load_tokenizer()


def test_the_shuffle_is_decided_by_the_seed_and_keeps_the_pairs(
    source: str, undisturbed: Path, tmp_path: Path
) -> None:
    prepare_records(source, str(tmp_path), settings=replace(SETTINGS, seed=1))
    records = [RecordSet.open(str(path)) for path in (undisturbed, tmp_path)]
    pairs = []
    for one in records:
        size = one.splits["train"].num_rows
        (rows,) = evaluation_batches(one, "train", batch_size=size).as_numpy_iterator()
        assert set(rows) == set(FIELDS)
        decode = one.load_tokenizer().decode
        pairs.append([tuple(decode(pair)) for pair in unpack(rows)])
    assert pairs[0] != pairs[1]
    assert sorted(pairs[0]) == sorted(pairs[1])


def test_dropped_pairs_are_counted_by_reason_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_tsv(tmp_path / "a.tsv", text_pairs(500))
    long_line = "open the window " * 30 + "\tFenster öffnen\n"
    path.write_text(path.read_text() + "no tab\n" * 2 + long_line)
    with caplog.at_level(logging.INFO):
        records = prepare_records(f"tsv:{path}", str(tmp_path), settings=SETTINGS)
    assert records.dropped == {"no tab": 2, "too long for a row": 1}
    assert (
        json.loads((tmp_path / RECORDS_FILE).read_text())["dropped"] == records.dropped
    )
    assert "too long for a row" in caplog.text


@pytest.mark.parametrize(
    ("num_pairs", "settings", "advice"),
    [
        (20, {}, "both must have some.\nUse a larger file"),
        (500, {"target_length": 8}, "(?s)no train pair fits.*--row-length"),
    ],
)
def test_source_that_gives_no_rows_is_refused(
    tmp_path: Path, num_pairs: int, settings: dict[str, int], advice: str
) -> None:
    pairs = text_pairs(num_pairs)
    if settings:
        pairs = [(f"{e} {e} {e}", f"{g} {g} {g}") for e, g in pairs]
    path = write_tsv(tmp_path / "a.tsv", pairs)
    with pytest.raises(DataFormatError, match=advice):
        prepare_records(
            f"tsv:{path}", str(tmp_path / "r"), settings=replace(SETTINGS, **settings)
        )
    assert not (tmp_path / "r" / RECORDS_FILE).exists()


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"target_length": 7}, "--row-length 7"),
        ({"target_length": 4097}, "--row-length 4097"),
        ({"vocab_size": 63}, "--vocab-size 63"),
        ({"vocab_size": 65_536}, "--vocab-size 65536"),
        ({"rows_per_shard": 0}, "rows_per_shard is 0"),
    ],
    ids=str,
)
def test_settings_that_can_not_work_name_the_flag(
    settings: dict[str, int], flag: str
) -> None:
    with pytest.raises(UsageError, match=flag):
        PrepareSettings(**settings)
