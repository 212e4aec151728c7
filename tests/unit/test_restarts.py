"""The decision to start a program again: a pure function, for any sequence of ends."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.errors import UsageError
from resumable_tf.supervising.restarts import (
    Attempt,
    History,
    Restart,
    RestartPolicy,
    Stop,
    decide,
)

POLICY = RestartPolicy(max_fruitless=3, first_delay_secs=1.0, max_delay_secs=60.0)
CODES = st.sampled_from([1, 3, 69, 75, 134, -signal.SIGKILL, -signal.SIGSEGV])
ATTEMPTS = st.builds(
    Attempt,
    exit_code=CODES,
    last_step=st.none() | st.integers(0, 9),
    ran_secs=st.floats(0, 1e4),
    is_hung=st.booleans(),
)


def crash(step: int | None = None, **changes: object) -> Attempt:
    fields = {"exit_code": 1, "last_step": step, "ran_secs": 1.0, **changes}
    return Attempt(**fields)  # type: ignore[arg-type]


def supervise(attempts: list[Attempt], policy: RestartPolicy = POLICY) -> list:
    """Returns the decisions up to the first that stops."""
    history, decisions = History(), []
    for attempt in attempts:
        history = history.after(attempt, steady_secs=policy.steady_secs)
        decisions.append(decide(attempt, history, policy, jitter=1.0))
        if isinstance(decisions[-1], Stop):
            break
    return decisions


@given(attempts=st.lists(ATTEMPTS, min_size=1, max_size=40))
def test_it_stops_if_and_only_if_so_many_restarts_brought_no_new_step(
    attempts: list[Attempt],
) -> None:
    decisions = supervise(attempts)
    best, fruitless = None, 0
    for number, (attempt, decision) in enumerate(
        zip(attempts, decisions, strict=False)
    ):
        step = attempt.last_step
        is_new = step is not None and (best is None or step > best)
        best = step if is_new else best
        fruitless = 0 if is_new or number == 0 else fruitless + 1
        is_crash = attempt.exit_code != 75 or attempt.is_hung
        expected = is_crash and fruitless >= POLICY.max_fruitless
        assert isinstance(decision, Stop) == expected
        if expected:
            # What is not there may come: who started the supervisor may try again.
            assert decision.exit_code == (69 if attempt.exit_code == 69 else 70)
            assert "crash loop" in decision.reason


@given(
    attempt=ATTEMPTS,
    fruitless=st.integers(0, 10_000),
    jitter=st.floats(0, 1),
)
def test_waits_grow_with_fruitless_restarts_and_stay_within_their_bounds(
    attempt: Attempt, fruitless: int, jitter: float
) -> None:
    policy = RestartPolicy(max_fruitless=10**6, max_delay_secs=60.0)
    history = History(num_starts=fruitless + 1, num_fruitless=fruitless)
    decision = decide(attempt, history, policy, jitter=jitter)
    assert isinstance(decision, Restart)
    full = min(60.0, 2.0 ** min(fruitless, 60))
    if attempt.exit_code == 75 and not attempt.is_hung and not fruitless:
        assert decision.after_secs == 0.0
    else:
        assert full / 2 <= decision.after_secs <= full


@given(attempt=ATTEMPTS, history=st.builds(History, num_starts=st.integers(1, 9)))
def test_a_supervisor_that_was_asked_to_stop_never_starts_anything(
    attempt: Attempt, history: History
) -> None:
    decision = decide(attempt, history, POLICY, jitter=0.0, is_stopping=True)
    assert isinstance(decision, Stop)
    assert decision.exit_code == 75


@given(attempt=ATTEMPTS, history=st.builds(History), stops=st.booleans())
def test_finished_and_wrong_usage_are_final_whatever_came_before(
    attempt: Attempt, history: History, stops: bool
) -> None:
    for code in (0, 2):
        ended = Attempt(code, attempt.last_step, attempt.ran_secs, attempt.is_hung)
        decision = decide(ended, history, POLICY, jitter=0.0, is_stopping=stops)
        assert isinstance(decision, Stop)
        assert decision.exit_code == code


def test_a_crash_at_the_same_step_again_and_again_is_a_loop() -> None:
    decisions = supervise([crash(15)] * 9)
    assert len(decisions) == 4
    assert "3 restarts brought no step beyond 15" in decisions[-1].reason


def test_preemption_is_never_a_crash_loop_and_does_not_hide_one() -> None:
    preempted = crash(exit_code=75)
    assert all(isinstance(one, Restart) for one in supervise([preempted] * 50))
    assert isinstance(supervise([*[preempted] * 4, crash()])[-1], Stop)


def test_without_heartbeats_a_long_run_counts_as_a_new_step() -> None:
    short, long = (
        crash(has_heartbeat=False, ran_secs=secs) for secs in (5.0, POLICY.steady_secs)
    )
    assert all(isinstance(one, Restart) for one in supervise([long] * 9))
    assert len(supervise([short] * 9)) == 4
    # With heartbeats only steps count.
    assert len(supervise([crash(ran_secs=1e6)] * 9)) == 4


@pytest.mark.parametrize(
    ("attempt", "how"),
    [
        (crash(exit_code=-9), "killed by SIGKILL"),
        (crash(exit_code=-99), "killed by signal 99"),
        (crash(exit_code=75), "preempted"),
        (crash(exit_code=134), "crashed with exit code 134"),
        (crash(exit_code=-9, is_hung=True), "hung"),
    ],
)
def test_a_restart_says_how_the_program_ended(attempt: Attempt, how: str) -> None:
    (decision,) = supervise([attempt])
    assert decision.reason == how


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"max_fruitless": -1}, "--max-fruitless -1"),
        ({"first_delay_secs": -1.0}, "--first-delay-secs -1"),
        ({"first_delay_secs": 9.0, "max_delay_secs": 8.0}, "--max-delay-secs"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_flag(
    change: dict[str, float], flag: str
) -> None:
    with pytest.raises(UsageError, match=flag):
        RestartPolicy(**change)  # type: ignore[arg-type]
