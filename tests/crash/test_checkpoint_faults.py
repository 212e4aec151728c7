"""Storage errors at every operation: none is lost, and none costs a checkpoint.

The process lives on here, unlike in the kill tests; what an operation leaves behind is
the same, so the rarer ways (replacing, quarantine) are driven through here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from helpers.faulty_storage import FaultyStorage
from helpers.small_state import advance, assert_at_step, small_state

from resumable_tf.checkpoint import Checkpointer, SaveOptions, bundle
from resumable_tf.errors import CheckpointCorruptError, SaveError
from resumable_tf.storage import Storage, open_storage

NEVER = 10**9
SYNCHRONOUS = SaveOptions(asynchronous=False)


@pytest.fixture(params=["local", pytest.param("memory", marks=pytest.mark.proof)])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Returns a new run directory at each call."""

    def make() -> str:
        name = uuid4().hex
        is_local = request.param == "local"
        return str(tmp_path / name) if is_local else f"memory://faults/{name}"

    return make


def save_steps(storage: Storage | str, *steps: int) -> None:
    state = small_state()
    with Checkpointer(storage, keep_last=2, options=SYNCHRONOUS) as checkpointer:
        checkpointer.restore_or_initialize(state)
        for step in steps:
            advance(state, step - state.step)
            checkpointer.save(state, metrics={"save": float(step)})


def restored_step(url: str) -> int:
    """Restores in a new Checkpointer, checks the values, and returns the step."""
    state = small_state()
    info = Checkpointer(url).restore_or_initialize(state)
    assert_at_step(state, state.step)
    assert (info is None) == (state.step == 0)
    return state.step


def for_each_failure(
    new_url: Callable[[], str],
    *,
    prepare: Callable[[str], None],
    work: Callable[[Storage], None],
    check: Callable[[str], None],
    mode: str = "raise",
    num_faults: int = 1,
) -> int:
    """Lets `work` fail at each of its operations in turn; returns how many it has.

    With many faults in a row it is as if the process were killed there.
    """
    number = 0
    while True:
        url = new_url()
        prepare(url)
        storage = FaultyStorage(
            open_storage(url), fail_at=number, mode=mode, num_faults=num_faults
        )
        failed = False
        try:
            work(storage)
        except OSError as error:
            failed = True
            assert "injected" in str(error)
        assert failed == (mode == "raise" and number < len(storage.log))
        if number >= len(storage.log):
            return number
        check(url)
        number += 1


def test_every_storage_error_is_raised_and_costs_one_save_at_most(
    new_url: Callable[[], str],
) -> None:
    def check(url: str) -> None:
        assert restored_step(url) in (2, 3)
        save_steps(url, 5)
        assert restored_step(url) == 5

    num_operations = for_each_failure(
        new_url,
        prepare=lambda url: save_steps(url, 1, 2),
        work=lambda storage: save_steps(storage, 3),
        check=check,
    )
    assert num_operations > 20


def test_cut_off_writes_are_noticed(new_url: Callable[[], str]) -> None:
    """A disk or store that loses the second half of one file and says nothing."""

    def work(storage: Storage) -> None:
        try:
            save_steps(storage, 3)
        except SaveError as error:
            # The last look at the new checkpoint has found its manifest cut off.
            raise OSError("injected") from error

    num_operations, number, cut = 0, 0, []
    while number <= num_operations:
        url = new_url()
        save_steps(url, 1, 2)
        storage = FaultyStorage(open_storage(url), fail_at=number, mode="truncate")
        try:
            work(storage)
        except OSError as error:
            assert "injected" in str(error)
        num_operations = len(storage.log)
        cut += storage.cut
        assert restored_step(url) in ((2,) if storage.cut else (2, 3))
        number += 1
    if open_storage(url).local_path("checkpoints") is not None:
        assert any(".data-" in name for name in cut), cut
        assert any(".index" in name for name in cut), cut
    assert num_operations > 20


@pytest.mark.parametrize("num_faults", [1, NEVER], ids=["once", "lasting"])
@pytest.mark.parametrize("steps", [(2,), (1, 2)], ids=["the only", "the newest"])
def test_replacing_a_checkpoint_never_loses_it(
    new_url: Callable[[], str], steps: tuple[int, ...], num_faults: int
) -> None:
    def replace(storage: Storage) -> None:
        state = small_state()
        with Checkpointer(storage, options=SYNCHRONOUS) as checkpointer:
            checkpointer.restore_or_initialize(state)
            checkpointer.save(state, metrics={"again": 1.0})

    def check(url: str) -> None:
        assert restored_step(url) == 2
        names = open_storage(url).list("checkpoints")
        assert not any("superseded" in name for name in names)
        save_steps(url, 3)
        assert restored_step(url) == 3, names

    num_operations = for_each_failure(
        new_url,
        prepare=lambda url: save_steps(url, *steps),
        work=replace,
        check=check,
        num_faults=num_faults,
    )
    assert num_operations > 30


def test_a_second_save_that_fails_leaves_the_first_in_its_place_at_once(
    new_url: Callable[[], str],
) -> None:
    """Also for those who only read, and for TensorFlow."""
    url = new_url()
    save_steps(url, 1, 2)
    storage = open_storage(url)
    before = {name: storage.read_bytes(name) for name in storage.list("checkpoints")}

    class NoCommit(FaultyStorage):
        def create(self, name: str, data: bytes) -> None:
            if name.endswith("ckpt-2.manifest.json"):
                raise OSError("injected")
            super().create(name, data)

    state = small_state()
    checkpointer = Checkpointer(NoCommit(storage, fail_at=NEVER), options=SYNCHRONOUS)
    checkpointer.restore_or_initialize(state)
    with pytest.raises(SaveError, match="injected"):
        checkpointer.save(state, metrics={"again": 1.0})
    after = {name: storage.read_bytes(name) for name in storage.list("checkpoints")}
    assert after == before


def test_an_abandoned_checkpoint_never_comes_back(
    new_url: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    """Training went back from step 3 to 1, and what it then saved is damaged."""
    url = new_url()
    save_steps(url, 1, 2, 3)
    state = small_state()
    with Checkpointer(url, keep_last=1, options=SYNCHRONOUS) as checkpointer:
        checkpointer.restore(state, 2)
        checkpointer.save(state)
    storage = open_storage(url)
    assert storage.list("checkpoints/superseded/ckpt-3.1")
    storage.write_bytes("checkpoints/ckpt-2.index", b"damaged")
    for _ in range(2):
        with pytest.raises(CheckpointCorruptError, match="no checkpoint"):
            restored_step(url)
    for name in storage.list("checkpoints/quarantine"):
        storage.delete(name)
    assert restored_step(url) == 0
    assert "checkpoints/superseded" in caplog.text


def test_a_quarantine_that_was_cut_short_is_finished_and_loses_nothing(
    new_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = b"damaged"
    # One file after the other: else the damage may be found before the fault.
    in_turn = functools.partial(bundle.in_parallel, num_threads=1)
    monkeypatch.setattr(bundle, "in_parallel", in_turn)

    def prepare(url: str) -> None:
        save_steps(url, 1, 2)
        open_storage(url).write_bytes("checkpoints/ckpt-2.index", damaged)

    def restore(storage: Storage) -> None:
        state = small_state()
        Checkpointer(storage).restore_or_initialize(state)
        assert_at_step(state, 1)

    def check(url: str) -> None:
        assert restored_step(url) == 1
        storage = open_storage(url)
        names = storage.list("checkpoints/quarantine")
        ends = [name.rsplit("ckpt-2.", 1)[1] for name in names]
        assert ends == ["data-00000-of-00001", "index", "manifest.json"]
        assert storage.read_bytes(names[1]) == damaged

    assert for_each_failure(new_url, prepare=prepare, work=restore, check=check) > 10
