"""What the states of a TPU node mean; the client itself: test_tpu_client.py."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.errors import NoticeError, UsageError
from resumable_tf.notices.readiness import ReadinessWait
from resumable_tf.notices.tpu_node import (
    NodeKind,
    NodeStatus,
    TpuNode,
    classify,
    node_notice,
)
from resumable_tf.tpu.machine import INSTALL_API_CLIENT

ROOT = Path(__file__).resolve().parents[2]
GONE = ("DELETED", "DELETING", "PREEMPTED", "TERMINATED")


@pytest.mark.parametrize("health", [None, "HEALTHY", "HEALTH_UNSPECIFIED"])
def test_only_a_ready_node_that_is_not_called_unhealthy_can_be_used(
    health: str | None,
) -> None:
    assert classify("READY", health).kind is NodeKind.READY


@given(
    state=st.sampled_from(["CREATING", "HIDDEN", "READY", "STOPPED", *GONE, ""]),
    health=st.none() | st.sampled_from(["HEALTHY", "TIMEOUT", "UNHEALTHY_MAINTENANCE"]),
)
def test_a_state_is_gone_ready_or_waited_for(state: str, health: str | None) -> None:
    status = classify(state or None, health)
    is_ready = state == "READY" and health in (None, "HEALTHY")
    expected = NodeKind.GONE if state in GONE else NodeKind.WAIT
    assert status.kind is (NodeKind.READY if is_ready else expected)
    assert status.detail
    notice = node_notice(status)
    assert (notice is not None) == (state in (*GONE, "STOPPED"))


def test_a_state_that_a_later_api_adds_is_waited_for() -> None:
    status = classify("DREAMING", "HEALTHY")
    assert (status.kind, node_notice(status)) == (NodeKind.WAIT, None)


def test_without_the_client_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cloud_tpu_client", None)
    with pytest.raises(UsageError, match=re.escape(INSTALL_API_CLIENT)):
        TpuNode("node-1")
    assert INSTALL_API_CLIENT in (ROOT / "docs" / "supervisor.md").read_text("utf-8")


def test_another_version_of_the_api_is_refused() -> None:
    with pytest.raises(UsageError, match="--tpu-api 'v3' is none of v1, v2"):
        TpuNode("node-1", api="v3")


class Script:
    """A node whose states are given; the last one stays. A clock that sleeping moves.

    A state is (state, health), or NoticeError.
    """

    def __init__(self, *states: object) -> None:
        self.states = list(states)
        self.now = 0.0
        self.told: list[object] = []

    def read(self) -> NodeStatus:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, NoticeError):
            raise state
        return classify(*state)

    def sleep(self, secs: float) -> None:
        self.now += secs

    def wait(self, stops_at: float = float("inf")) -> str | None:
        wait = ReadinessWait(
            self.read,
            tell=self.told.append,
            timeout_secs=1000.0,
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        return wait(lambda: self.now >= stops_at)


STEPS = [
    ("CREATING", None),
    ("READY", "UNHEALTHY_MAINTENANCE"),
    ("REPAIRING", "TIMEOUT"),
    ("STOPPED", None),
    NoticeError("HTTP 500"),
]
ENDS = [("READY", "HEALTHY"), *((state, None) for state in GONE)]


@given(steps=st.lists(st.sampled_from(STEPS), max_size=9), end=st.sampled_from(ENDS))
def test_every_sequence_of_states_is_waited_out_up_to_ready_or_gone(
    steps: list[object], end: tuple[str, str | None]
) -> None:
    node = Script(*steps, end, ("READY", None))
    obstacle = node.wait()
    assert obstacle is None if end[0] == "READY" else end[0] in obstacle
    assert len(node.states) == 1
    assert node.now == pytest.approx(10.0 * len(steps))
    changes = [one for one, before in zip(steps, [None, *steps]) if one != before]  # noqa: B905
    assert len(node.told) == len(changes) + 1


@pytest.mark.parametrize("state", STEPS)
def test_a_node_that_never_becomes_ready_is_given_up_in_time(state: object) -> None:
    node = Script(state)
    assert node.wait() == "the TPU node was not ready in 1000 s"
    assert 1000.0 <= node.now <= 1010.0
    assert len(node.told) == 1


def test_a_stop_ends_the_wait_at_once() -> None:
    node = Script(("CREATING", None))
    assert node.wait(stops_at=33.3) == "asked to stop"
    assert node.now < 34.0
