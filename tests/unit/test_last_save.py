"""The last save: what is under way, what has failed before, which tier comes first."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.faulty_storage import FaultyStorage
from helpers.saved_runs import steps_in
from helpers.small_state import advance, assert_at_step, small_state

import resumable_tf as rtf
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.errors import SaveError
from resumable_tf.storage import LocalStorage


def quiet_guard(**arguments: Any) -> rtf.PreemptionGuard:
    """Returns a guard that asks no metadata server."""
    return rtf.PreemptionGuard(sources=(), **arguments)


def test_a_save_under_way_is_finished_before_the_last_one(tmp_path: Path) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def block(_: float) -> None:
        begun.set()
        may_end.wait(60)

    state = small_state()
    storage = FaultyStorage(
        LocalStorage(str(tmp_path)), fail_at=12, mode="delay", sleep=block
    )
    with rtf.Checkpointer(storage) as checkpointer, quiet_guard() as guard:
        assert checkpointer.save_secs == {"durable": None}
        advance(state)
        checkpointer.save(state)
        assert begun.wait(60)
        advance(state)
        signal.raise_signal(signal.SIGTERM)
        threading.Timer(0.1, may_end.set).start()
        with pytest.raises(rtf.Preempted, match="SIGTERM: saved step 2 and stopped"):
            guard.after_step(state, checkpointer)
        assert 0.0 < checkpointer.save_secs["durable"] < 60.0
    assert steps_in(tmp_path) == [1, 2]
    found = small_state()
    rtf.Checkpointer(str(tmp_path)).restore(found)
    assert_at_step(found, 2)


@pytest.mark.parametrize("grace_secs", [25.0, 0.0])
@pytest.mark.parametrize("has_fast_tier", [False, True])
def test_a_failed_save_does_not_keep_the_last_one_from_being_tried(
    has_fast_tier: bool,
    grace_secs: float,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_dir, fast = tmp_path / "run", tmp_path / "fast"
    failing = _FirstCommitFails(str(fast if has_fast_tier else run_dir))
    options = rtf.SaveOptions(
        fast_tier=rtf.FastTier(failing) if has_fast_tier else None
    )
    storage = LocalStorage(str(run_dir)) if has_fast_tier else failing
    state = small_state()
    with (
        rtf.Checkpointer(storage, options=options) as checkpointer,
        quiet_guard(grace_secs=grace_secs) as guard,
    ):
        advance(state)
        handle = checkpointer.save(state)
        while not handle.done():
            time.sleep(0.01)
        advance(state)
        guard.request("preempted")
        with pytest.raises(rtf.Preempted):
            guard.after_step(state, checkpointer)
    assert steps_in(fast if has_fast_tier else run_dir) == [2]
    assert "saving step 2 none the less" in caplog.text


class _FirstCommitFails(LocalStorage):
    """A storage that takes no manifest of step 1."""

    def create(self, name: str, data: bytes) -> None:
        if name.endswith("ckpt-1.manifest.json"):
            raise OSError("injected")
        super().create(name, data)


class _Broken(FaultyStorage):
    """Fails from one operation on."""

    def _operate(self, kind: str, name: str) -> bool:
        self._fail_at = max(self._fail_at, len(self.log))
        return super()._operate(kind, name)


def test_a_last_save_that_fails_is_an_error_and_no_preemption(tmp_path: Path) -> None:
    state = small_state()
    storage = _Broken(LocalStorage(str(tmp_path)), fail_at=9)
    advance(state)
    with (
        pytest.raises((SaveError, OSError)) as caught,
        rtf.Checkpointer(storage) as checkpointer,
        quiet_guard() as guard,
    ):
        guard.request("preempted")
        guard.after_step(state, checkpointer)
    assert not isinstance(caught.value, rtf.Preempted)
    assert steps_in(tmp_path) == []


def test_a_step_that_is_saved_already_is_not_saved_again(tmp_path: Path) -> None:
    state = small_state()
    with rtf.Checkpointer(str(tmp_path)) as checkpointer, quiet_guard() as guard:
        advance(state)
        time_of_save = checkpointer.save(state).result().manifest.time
        guard.request("preempted")
        with pytest.raises(rtf.Preempted):
            guard.after_step(state, checkpointer)
        assert checkpointer.latest().manifest.time == time_of_save


def test_a_step_that_is_being_saved_is_not_saved_again_with_a_fast_tier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would move the first one away while that is copied to the run directory."""
    written: list[int] = []
    write = Tier.write

    def slow(tier: Tier, snapshot: Any, draft: Any) -> Any:
        written.append(draft.step)
        time.sleep(0.3)
        return write(tier, snapshot, draft)

    monkeypatch.setattr(Tier, "write", slow)
    options = rtf.SaveOptions(fast_tier=rtf.FastTier(str(tmp_path / "fast")))
    state = small_state()
    with (
        rtf.Checkpointer(str(tmp_path / "run"), options=options) as checkpointer,
        quiet_guard(grace_secs=25.0) as guard,
    ):
        advance(state)
        checkpointer.save(state)
        guard.request("preempted")
        with pytest.raises(rtf.Preempted):
            guard.after_step(state, checkpointer)
        assert checkpointer.durable_step == 1
    assert written == [1]


@pytest.mark.parametrize(
    ("durable_secs", "expected"),
    [
        (1.0, ([1, 2], [1, 2])),
        (22.0, ([1, 2], [1, 2])),
        (40.0, ([1, 2], [1])),
        (None, ([1, 2], [1, 2])),
    ],
)
def test_the_fast_tier_comes_first_when_the_run_directory_may_be_too_far(
    tmp_path: Path, durable_secs: float | None, expected: tuple[list[int], list[int]]
) -> None:
    """Behind it the run directory is tried, unless it is known to be hopeless."""
    run_dir, fast = tmp_path / "run", tmp_path / "fast"
    options = rtf.SaveOptions(fast_tier=rtf.FastTier(str(fast)))
    state = small_state()
    with (
        rtf.Checkpointer(str(run_dir), options=options) as checkpointer,
        quiet_guard(grace_secs=25.0) as guard,
    ):
        advance(state)
        checkpointer.save(state)
        checkpointer.wait()
        assert set(checkpointer.save_secs) == {"durable", "fast"}
        checkpointer._tiers.durable.last_write_secs = durable_secs
        guard.request("preempted")
        advance(state)
        with pytest.raises(rtf.Preempted):
            guard.after_step(state, checkpointer)
    assert (steps_in(fast), steps_in(run_dir)) == expected
    again = small_state()
    with rtf.Checkpointer(str(run_dir), options=options) as checkpointer:
        checkpointer.restore_or_initialize(again)
        assert_at_step(again, 2)
