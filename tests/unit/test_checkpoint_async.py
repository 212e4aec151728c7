"""What a save in flight promises: who waits, and where its failure is raised."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.saved_runs import save_steps
from helpers.small_state import (
    advance,
    assert_at_step,
    small_state,
)

from resumable_tf.checkpoint import Checkpointer, SaveOptions, bundle
from resumable_tf.errors import SaveError, UsageError
from resumable_tf.storage import LocalStorage, Storage


class Failing(LocalStorage):
    """Fails once while a checkpoint is written; everything before succeeds."""

    has_failed = False

    def sync(self, name: str) -> None:
        if not self.has_failed and "ckpt-" in name:
            self.has_failed = True
            raise OSError(f"injected: {name}")
        super().sync(name)


def failing(directory: Path) -> Failing:
    return Failing(str(directory))


def begun(storage: Storage, state: Any, **arguments: Any) -> Checkpointer:
    """Returns the checkpointer of a run that begins, as a user's loop does."""
    checkpointer = Checkpointer(storage, **arguments)
    checkpointer.restore_or_initialize(state)
    return checkpointer


def test_training_goes_on_while_a_save_is_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot is of the step it was asked for, whenever it is written."""
    gate, threads = threading.Event(), []
    write = bundle.BundleWriter.write

    def gated(*arguments: Any, **keywords: Any) -> Any:
        threads.append((threading.current_thread(), os.getpriority(os.PRIO_PROCESS, 0)))
        assert gate.wait(60)
        return write(*arguments, **keywords)

    monkeypatch.setattr(bundle.BundleWriter, "write", gated)
    state = small_state()
    with Checkpointer(str(tmp_path)) as checkpointer:
        advance(state, 3)
        handle = checkpointer.save(state)
        assert not handle.done()
        with pytest.raises(TimeoutError, match="step 3 is not done"):
            handle.result(0.01)
        advance(state, 4)
        assert checkpointer.checkpoints() == []
        gate.set()
        assert handle.result().step == 3
    [(thread, nice)] = threads
    assert thread is not threading.main_thread()
    assert not thread.daemon
    assert not thread.is_alive()
    assert nice == 10
    assert os.getpriority(os.PRIO_PROCESS, 0) < 10
    again = small_state()
    Checkpointer(str(tmp_path)).restore(again)
    assert_at_step(again, 3)


def test_a_new_save_waits_for_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = [0], [0]
    write = bundle.BundleWriter.write

    def counted(*arguments: Any, **keywords: Any) -> Any:
        running[0] += 1
        most[0] = max(most[0], running[0])
        manifest = write(*arguments, **keywords)
        running[0] -= 1
        return manifest

    monkeypatch.setattr(bundle.BundleWriter, "write", counted)
    save_steps(tmp_path, *range(1, 6))
    assert most == [1]


def test_a_failed_save_raises_at_the_next_call_and_only_once(tmp_path: Path) -> None:
    state = small_state()
    checkpointer = begun(failing(tmp_path), state, every_steps=1)
    handle = checkpointer.save(state)
    while not handle.done():
        pass
    with pytest.raises(SaveError, match="step 0 was not saved: injected") as caught:
        checkpointer.maybe_save(state)
    assert isinstance(caught.value.__cause__, OSError)
    advance(state)
    assert checkpointer.maybe_save(state).result().step == 1
    checkpointer.close()


def test_a_failure_that_was_fetched_is_not_raised_again(tmp_path: Path) -> None:
    state = small_state()
    with begun(failing(tmp_path), state) as checkpointer:
        with pytest.raises(SaveError):
            checkpointer.save(state).result()


def test_a_failed_save_raises_at_the_end_of_the_block(tmp_path: Path) -> None:
    state = small_state()
    with (
        pytest.raises(SaveError, match="injected"),
        begun(failing(tmp_path), state) as checkpointer,
    ):
        checkpointer.save(state)


def test_a_failed_save_does_not_hide_the_blocks_own_error(tmp_path: Path) -> None:
    state = small_state()
    with (
        pytest.raises(ZeroDivisionError) as caught,
        begun(failing(tmp_path), state) as checkpointer,
    ):
        checkpointer.save(state)
        raise ZeroDivisionError
    assert isinstance(caught.value.__context__, SaveError)


def test_synchronous_saves_raise_at_once(tmp_path: Path) -> None:
    state, options = small_state(), SaveOptions(asynchronous=False)
    checkpointer = begun(failing(tmp_path), state, options=options)
    with pytest.raises(SaveError, match="injected"):
        checkpointer.save(state)
    checkpointer.close()


def test_nothing_is_saved_after_close(tmp_path: Path) -> None:
    checkpointer = Checkpointer(str(tmp_path))
    checkpointer.close()
    with pytest.raises(UsageError, match="closed"):
        checkpointer.save(small_state())


def test_listing_does_not_import_tensorflow() -> None:
    code = (
        "import sys; from resumable_tf.checkpoint import Catalog, Manifest;"
        "from resumable_tf.storage import open_storage;"
        "Catalog(open_storage('memory://none')).readable();"
        "sys.exit('tensorflow' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
