"""A TPU job whose training has ended for good: it is said, and nothing is bought again.

Guards against an idle TPU that is taken away and bought again by a cron job, for ever.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_gcs import FakeGcs
from helpers.tpu_job import CREATE, DEMO, RUN_DIR, Cloud

from resumable_tf.storage import open_storage
from resumable_tf.supervising.events import Events
from resumable_tf.supervising.outcome import OutcomeFile
from resumable_tf.tpu.job_files import train_script
from resumable_tf.tpu.status import OUTCOME_FILE

IF_LOST = ["recreate", "--run-dir", RUN_DIR, "--if-lost", "--yes"]
LOOP = "crash loop: 8 restarts brought no step beyond 7"


@pytest.fixture
def cloud(tmp_path: Path, fake_gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    return Cloud(tmp_path, fake_gcs)


def end(exit_code: int, reason: str) -> None:
    """Does what the supervisor does at its end."""
    fields = {"exit_code": exit_code, "reason": reason}
    file = OutcomeFile(f"{RUN_DIR}/{OUTCOME_FILE}")
    Events(file).emit("stopped", num_starts=1, best_step=7, **fields)


def test_the_supervisor_is_told_where_to_leave_its_end() -> None:
    words = shlex.split(train_script(DEMO))
    outcome = words[words.index("--outcome") + 1]
    assert outcome == f"{RUN_DIR}/{OUTCOME_FILE}"
    assert words.index("--outcome") < words.index("--")


def test_a_finished_job_is_shown_as_such_and_is_to_be_deleted(cloud: Cloud) -> None:
    cloud.create()
    end(0, "finished")
    _, output = cloud.run("status", "--run-dir", RUN_DIR)
    assert "training         finished, 0:00:0" in output
    assert "node             READY" in output
    assert "still paid for" in output and "`delete`" in output
    cloud.preempt()
    _, output = cloud.run("status", "--run-dir", RUN_DIR)
    assert "the TPU is gone" not in output and "`delete`" in output


def test_a_job_that_has_given_up_is_shown_as_such(cloud: Cloud) -> None:
    cloud.create()
    end(70, LOOP)
    _, output = cloud.run("status", "--run-dir", RUN_DIR)
    assert f"training         {LOOP}, 0:00:0" in output
    assert "still paid for" in output and "`logs`" in output


@pytest.mark.parametrize(("exit_code", "reason"), [(0, "finished"), (70, LOOP)])
def test_what_has_ended_is_not_bought_again_when_its_tpu_is_taken_away(
    cloud: Cloud, exit_code: int, reason: str
) -> None:
    cloud.create()
    end(exit_code, reason)
    cloud.preempt()
    before = cloud.state
    code, output = cloud.run(*IF_LOST)
    assert code == 0 and f"({reason}); nothing was done" in output
    after = cloud.state
    assert (after["nodes"], after["requests"]) == (before["nodes"], before["requests"])
    # On the user's own word it is.
    code, output = cloud.run("recreate", "--run-dir", RUN_DIR, "--yes")
    assert code == 0 and cloud.state["nodes"]["demo"]["state"] == "READY"
    assert not open_storage(RUN_DIR).exists(OUTCOME_FILE)
    # From then on it counts as any other.
    cloud.preempt()
    code, output = cloud.run(*IF_LOST)
    assert code == 0 and cloud.state["nodes"]["demo"]["state"] == "READY"


def delete_and_create(cloud: Cloud) -> None:
    cloud.run("delete", "--run-dir", RUN_DIR, "--yes")
    code, output = cloud.run(*CREATE, "--", "--stop-step", "100000")
    assert code == 0, output


def start(cloud: Cloud) -> None:
    """Does what the supervisor does first."""
    OutcomeFile(f"{RUN_DIR}/{OUTCOME_FILE}").clear()


@pytest.mark.parametrize("go_on", [delete_and_create, start])
def test_a_finished_run_that_goes_on_is_bought_again(
    cloud: Cloud, go_on: Callable[[Cloud], Any]
) -> None:
    cloud.create()
    end(0, "finished")
    go_on(cloud)
    _, output = cloud.run("status", "--run-dir", RUN_DIR)
    assert "training " not in output
    cloud.preempt()
    code, output = cloud.run(*IF_LOST)
    assert code == 0 and cloud.state["nodes"]["demo"]["state"] == "READY"


def test_dry_runs_leave_the_outcome(cloud: Cloud) -> None:
    cloud.create()
    end(0, "finished")
    for command in (["recreate", "--run-dir", RUN_DIR], CREATE):
        code, output = cloud.run(*command, "--dry-run")
        assert code == 0 and f"{RUN_DIR}/{OUTCOME_FILE} is removed" in output
    assert json.loads(cloud.stored(OUTCOME_FILE))["reason"] == "finished"


def test_a_create_that_is_refused_leaves_the_outcome(cloud: Cloud) -> None:
    cloud.create()
    end(0, "finished")
    code, _ = cloud.run(*CREATE)
    assert code == 2 and cloud.stored(OUTCOME_FILE)
