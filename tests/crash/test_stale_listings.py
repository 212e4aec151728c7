"""Listings that are behind: a checkpoint that is not listed yet is still one.

Guards against a start or a save that takes it for what a killed process has left.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fake_gcs import FakeGcs
from helpers.fake_gcs_faults import Fault
from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.checkpoint.catalog import Catalog
from resumable_tf.checkpoint.layout import SUPERSEDED
from resumable_tf.storage import LocalStorage, open_storage

_LISTING = r"GET .*/o\?.*prefix"


class _Behind(LocalStorage):
    """Lists no manifest of one step."""

    behind: int | None = None

    def list(self, directory: str) -> list[str]:
        names = super().list(directory)
        hidden = f"checkpoints/ckpt-{self.behind}.manifest.json"
        return [name for name in names if name != hidden]


def _train(url: str, *, num_saves: int = 3) -> int | None:
    """Saves after each step; returns where it began."""
    state = small_state()
    with Checkpointer(url, keep_last=2) as checkpointer:
        info = checkpointer.restore_or_initialize(state)
        if info is not None:
            assert_at_step(state, info.step)
        for _ in range(num_saves):
            advance(state)
            checkpointer.save(state)
    return None if info is None else info.step


def test_a_checkpoint_that_is_not_listed_yet_is_no_leftover(tmp_path: Path) -> None:
    _train(str(tmp_path))
    storage = _Behind(str(tmp_path))
    before = storage.list("")
    storage.behind = 2
    Catalog(storage).clean()
    storage.behind = None
    assert storage.list("") == before


def test_a_replacement_that_is_not_listed_yet_is_not_undone(tmp_path: Path) -> None:
    """A second save of a step was killed between its commit and its marker's end."""
    _train(str(tmp_path))
    storage = _Behind(str(tmp_path))
    catalog = Catalog(storage)
    files = {n: storage.read_bytes(n) for n in storage.list("") if "ckpt-2." in n}
    catalog.set_aside(2, SUPERSEDED, until=2)
    for name, data in files.items():
        storage.write_bytes(name, data)
    storage.write_bytes("checkpoints/ckpt-2.index", b"new")
    storage.behind = 2
    catalog.clean()
    assert storage.read_bytes("checkpoints/ckpt-2.index") == b"new"
    storage.behind = None
    assert catalog.steps() == [2, 3]
    assert storage.list(SUPERSEDED) == []


@pytest.mark.proof
@pytest.mark.parametrize("changes", [1, 3, 6])
@pytest.mark.parametrize("num_before", [0, 3])
def test_every_listing_may_be_behind(
    fake_gcs: FakeGcs, changes: int, num_before: int
) -> None:
    """Of three saves after a start, with nothing or with checkpoints before."""
    num_hit = 0
    while True:
        url = f"gs://bucket/{changes}-{num_before}-{num_hit}"
        if num_before:
            _train(url, num_saves=num_before)
        fake_gcs.plan.clear()
        fake_gcs.plan.add(Fault("stale", match=_LISTING, skip=num_hit, changes=changes))
        assert _train(url) == (num_before or None)
        if not fake_gcs.plan.num_injected:
            break
        fake_gcs.plan.clear()
        assert _train(url, num_saves=0) == num_before + 3
        names = open_storage(url).list("checkpoints")
        assert not [name for name in names if name.count("/") > 1]
        num_hit += 1
    assert num_hit > 30
