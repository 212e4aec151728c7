"""No damage to any file of a run is restored, and none costs more than its checkpoint.

Guards against a wrong restore, and against errors that come out of TensorFlow or
Python's JSON instead of this project. Kills leave files that are whole or not there;
here files are what disks, copies and people make of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.corruption_matrix import CHECKPOINT_CLASSES, FAST_CLASSES, KINDS, Matrix
from helpers.counts import count
from helpers.damages import damages_of

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.errors import ConfigMismatchError
from resumable_tf.training.metrics_log import MetricsLog

pytestmark = pytest.mark.crash
LINES = [{"step": step, "loss": step / 7} for step in (10, 20, 30)]


def run_matrix(
    directory: Path,
    level: str,
    kinds: Sequence[str] = KINDS,
    *,
    size: int = 20,
    piece: tuple[int, int] = (0, 1),
) -> dict[str, dict[str, int]]:
    logging.disable(logging.WARNING)
    try:
        matrix = Matrix(directory, size=size)
        counts = matrix.run(level=level, kinds=kinds, piece=piece)
    finally:
        logging.disable(logging.NOTSET)
    count(f"{sum(sum(c.values()) for c in counts.values())} damages: {counts}")
    return counts


@pytest.mark.parametrize(
    "level", ["few", pytest.param("some", marks=pytest.mark.proof)]
)
def test_damage_to_any_file_is_noticed_and_the_next_start_is_exact(
    tmp_path: Path, level: str
) -> None:
    counts = run_matrix(tmp_path, level)
    assert set(counts) == set(KINDS)
    for kind in CHECKPOINT_CLASSES:
        assert counts[kind]["step 2"] > 10
        assert counts[kind]["step 1"] > 0  # The two newest changed places.
    assert set(counts["checkpoint"]) == set(counts["lease.json"]) == {"step 3"}
    for kind in ("run.json", *FAST_CLASSES):
        assert counts[kind]["CheckpointCorruptError"] > 10
    for kind in FAST_CLASSES:
        assert counts[kind]["FastTierMismatchError"] == 1


# A tenth of the proof has to fit into CI, so what takes long is in pieces: each takes
# every NUM_PIECES-th damage.
NUM_PIECES = 6


@pytest.mark.proof
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("piece", range(NUM_PIECES))
@pytest.mark.parametrize("kind", KINDS)
def test_damage_to_every_byte_is_noticed(tmp_path: Path, kind: str, piece: int) -> None:
    counts = run_matrix(tmp_path, "all", [kind], piece=(piece, NUM_PIECES))
    assert sum(counts[kind].values()) > 500 // NUM_PIECES


@pytest.mark.proof
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("piece", range(NUM_PIECES))
def test_damage_to_every_block_of_a_larger_file_is_noticed(
    tmp_path: Path, piece: int
) -> None:
    """Files of several pieces, as they are read and summed up."""
    counts = run_matrix(
        tmp_path, "all", ["data"], size=3_000_000, piece=(piece, NUM_PIECES)
    )
    assert sum(counts["data"].values()) > 1000 // NUM_PIECES


def test_settings_of_another_run_are_refused(tmp_path: Path) -> None:
    """run.json changed places with another's, or is gone and others are given."""
    matrix = Matrix(tmp_path)
    path = matrix.base / "run.json"
    own = path.read_bytes()
    other = {"preset": "tiny", "batch_size": 256, "num_rows": 7, "rate": 0.5}
    with Checkpointer(str(tmp_path / "other"), config=other) as checkpointer:
        checkpointer.restore_or_initialize(matrix.new_state())
    for data in ((tmp_path / "other" / "run.json").read_bytes(), None):
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        with (
            Checkpointer(str(matrix.base), config=other) as checkpointer,
            pytest.raises(ConfigMismatchError, match=r"own run\.json back") as caught,
        ):
            checkpointer.restore_or_initialize(matrix.new_state())
        assert caught.value.saved != caught.value.now
        assert path.exists() == (data is not None)
    path.write_bytes(own)
    with Checkpointer(str(matrix.base), config=matrix.config) as checkpointer:
        state = matrix.new_state()
        checkpointer.restore_or_initialize(state)
    assert state.step == 3


def test_a_checkpoint_that_lost_its_commit_is_kept_in_quarantine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    matrix = Matrix(tmp_path)
    directory = matrix.base / "checkpoints"
    (directory / "ckpt-3.manifest.json").unlink()
    data = (directory / "ckpt-3.index").read_bytes()
    with Checkpointer(str(matrix.base), config=matrix.config) as checkpointer:
        state = matrix.new_state()
        checkpointer.restore_or_initialize(state)
    assert state.step == 2
    assert "checkpoint 3 has lost its manifest" in caplog.text
    assert [path.read_bytes() for path in directory.rglob("ckpt-3.index")] == [data]


def test_damaged_metrics_are_noticed_kept_and_never_end_a_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # No power is cut here.
    whole = tmp_path / "whole.jsonl"
    log = MetricsLog(str(whole))
    log.open(step=0)
    for line in LINES:
        log.append(line)
    log.flush()
    data, written = whole.read_bytes(), log.written()
    for number, damage in enumerate(damages_of(data, [], level="all")):
        path = tmp_path / str(number) / "train.jsonl"
        path.parent.mkdir()
        path.write_bytes(data)
        damage.apply(path.parent, path.name)
        found = path.read_bytes() if path.exists() else b""
        caplog.clear()
        again = MetricsLog(str(path))
        again.open(step=30, written=written)
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert (again.written() == written) == (path.read_bytes() == data), damage
        if again.written() == written:
            assert lines == LINES and not caplog.records, damage
        else:
            assert "is damaged" in caplog.text, damage
            aside = path.with_name("train.jsonl.damaged-30")
            assert aside.read_bytes() == found
        assert all(line["step"] <= 30 for line in lines)
    assert number > 500
