"""run.json holds a run to the settings that it was begun with."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from helpers.faulty_storage import FaultyStorage
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.checkpoint.lineage import BatchSizeChanges
from resumable_tf.checkpoint.run_config import fingerprint_of, open_run, read_run
from resumable_tf.checkpoint.sealed_json import seal
from resumable_tf.errors import (
    CheckpointCorruptError,
    CheckpointVersionError,
    ConfigMismatchError,
)
from resumable_tf.storage import LocalStorage, open_storage

CONFIG = {"preset": "tiny", "batch_size": 256, "optimizer": {"peak_rate": 0.001}}


def test_the_first_start_writes_and_the_second_agrees(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    assert read_run(storage) is None
    lineage = {"parent": "runs/old", "step": 5}
    first = open_run(CONFIG, storage, lineage=lineage)
    written = (tmp_path / "run.json").read_bytes()
    second = open_run(dict(reversed(list(CONFIG.items()))), storage)
    assert first == second == read_run(storage)
    assert second.lineage == lineage
    assert (tmp_path / "run.json").read_bytes() == written


def test_other_settings_are_refused_with_both_values_and_flags(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    open_run(CONFIG, storage)
    other = {"preset": "tiny", "batch_size": 128, "optimizer": {"peak_rate": 0.002}}
    with pytest.raises(ConfigMismatchError) as caught:
        open_run({**other, "new": None}, storage)
    assert str(caught.value) == (
        f"{tmp_path}/run.json was begun with other settings.\n"
        "  batch_size: run.json 256, now 128\n"
        "  new: run.json (not set), now null\n"
        "  optimizer.peak_rate: run.json 0.001, now 0.002\n"
        "Use --batch-size 256 --optimizer.peak-rate 0.001, "
        "or start a new run directory.\n"
        "To go on with another batch size from here, on record in run.json, add "
        "--allow-batch-size-change (allow_batch_size_change=True)."
    )
    assert caught.value.saved["batch_size"] == 256
    assert caught.value.now["batch_size"] == 128


def test_tuples_and_lists_are_the_same_setting(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    open_run({"sizes": (1, 2)}, storage)
    open_run({"sizes": [1, 2]}, storage)


def test_a_start_that_was_overtaken_compares_with_the_winner(tmp_path: Path) -> None:
    class Overtaken:
        """Another process writes run.json between our look and our commit."""

        def __init__(self) -> None:
            self.inner = open_storage(str(tmp_path))

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def create(self, name: str, data: bytes) -> None:
            open_run({"preset": "base"}, self.inner)
            self.inner.create(name, data)

    with pytest.raises(ConfigMismatchError, match=r'run\.json "base", now "tiny"'):
        open_run({"preset": "tiny"}, Overtaken())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format_version": 1}'])
def test_a_damaged_run_file_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "run.json").write_bytes(data)
    with pytest.raises(CheckpointCorruptError, match=r"run\.json can't be read"):
        open_run(CONFIG, open_storage(str(tmp_path)))


def test_an_edited_run_file_is_noticed(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    open_run(CONFIG, storage)
    fields = json.loads((tmp_path / "run.json").read_text())
    fields["config"]["batch_size"] = 128
    (tmp_path / "run.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointCorruptError, match="its checksum is"):
        open_run(CONFIG, storage)


def test_a_changed_byte_anywhere_in_the_run_file_is_noticed(tmp_path: Path) -> None:
    """In the lineage too, and in numbers, of which "e" makes infinity."""
    storage = open_storage(str(tmp_path))
    config = {**CONFIG, "num_rows": 167500}
    run = open_run(config, storage, lineage={"parent": "runs/old", "step": 12})
    path = tmp_path / "run.json"
    whole = path.read_bytes()
    num_noticed = 0
    for place in range(len(whole)):
        for new in {whole[place] ^ 1, *b"e9"} - {whole[place]}:
            path.write_bytes(whole[:place] + bytes([new]) + whole[place + 1 :])
            try:
                assert read_run(storage) == run
            except (CheckpointCorruptError, CheckpointVersionError):
                num_noticed += 1
    assert num_noticed > len(whole)


def sealed_run(tmp_path: Path, **changes: object) -> None:
    """Writes a run.json with other fields and a checksum that fits."""
    fields = json.loads((tmp_path / "run.json").read_text())
    del fields["crc32c"]
    fields = {key: v for key, v in {**fields, **changes}.items() if v != "DROP"}
    (tmp_path / "run.json").write_text(json.dumps(seal(fields)))


def test_a_run_file_without_a_checksum_is_damaged(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    open_run(CONFIG, storage)
    fields = json.loads((tmp_path / "run.json").read_text())
    del fields["crc32c"]
    (tmp_path / "run.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointCorruptError, match="no checksum"):
        read_run(storage)


def test_a_newer_run_file_is_not_guessed_at(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    open_run(CONFIG, storage)
    sealed_run(tmp_path, format_version=2, config="DROP")
    with pytest.raises(CheckpointVersionError, match="newer resumable-tf"):
        read_run(storage)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"config": [1]}, "config is"),
        ({"config": {"another": 1}}, "was changed: its fingerprint is not that"),
        ({"fingerprint": 7}, "fingerprint is 7"),
        ({"lineage": {"changes": {}}}, "lineage.changes is"),
        ({"lineage": {"changes": [{"parent_step": 1}]}}, "missing"),
        (
            {
                "lineage": {
                    "changes": [
                        {
                            "parent_step": 1,
                            "time": 1,
                            "changed": {"batch_size": {"from": "8", "to": 4}},
                        }
                    ]
                }
            },
            "from is '8'",
        ),
        ({"surprise": 1}, "unknown.*surprise"),
    ],
)
def test_what_it_says_is_checked_by_type(
    tmp_path: Path, changes: dict[str, object], match: str
) -> None:
    storage = open_storage(str(tmp_path))
    open_run(CONFIG, storage)
    sealed_run(tmp_path, **changes)
    with pytest.raises(CheckpointCorruptError, match=match):
        read_run(storage)


def test_settings_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="config must be JSON"):
        open_run({"a": object()}, open_storage(str(tmp_path)))
    assert not list(tmp_path.iterdir())


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_fingerprints_do_not_depend_on_order(config: dict[str, object]) -> None:
    backwards = dict(reversed(list(config.items())))
    assert fingerprint_of(config) == fingerprint_of(backwards)
    assert fingerprint_of({**config, "another": 1}) != fingerprint_of(
        {**config, "another": 2}
    )


def test_a_change_of_the_batch_size_that_was_not_recorded_is_recorded_by_the_next_save(
    tmp_path: Path,
) -> None:
    storage = FaultyStorage(
        LocalStorage(str(tmp_path)), fail_at=10**9, number=errno.ENOSPC
    )
    open_run({"batch_size": 4}, storage)
    changes = BatchSizeChanges(storage, {"batch_size": 8}, lambda: 1.0)
    changes.begin(is_allowed=True)
    storage._fail_at, storage._num_faults = len(storage.log), 10**9
    with pytest.raises(OSError, match="No space left on device"):
        changes.record(step=3)
    storage.repair()
    changes.record(step=3)
    run = read_run(storage)
    assert run is not None and run.config == {"batch_size": 8}
    assert [change["parent_step"] for change in run.lineage["changes"]] == [3]
