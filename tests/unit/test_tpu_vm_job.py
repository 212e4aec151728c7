"""`scripts/tpu_vm_job.py` against a `gcloud` that knows the documented flags."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from helpers import fake_gcloud
from helpers.fake_gcs import FakeGcs
from helpers.small_state import advance, small_state
from helpers.tpu_job import CREATE, DEMO, RUN_DIR, Cloud

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.storage import open_storage


@pytest.fixture
def cloud(tmp_path: Path, fake_gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    return Cloud(tmp_path, fake_gcs)


def test_create_checks_then_uploads_then_asks_for_the_tpu(cloud: Cloud) -> None:
    code, output = cloud.run(*CREATE, "--env", "SEED=5", "--", "--preset", "tiny")
    assert code == 0, output
    assert cloud.verbs == [
        "storage buckets describe",
        "compute tpus tpu-vm describe",
        "compute tpus queued-resources describe",
        *["storage cp"] * 4,
        "compute tpus queued-resources create",
    ]
    assert b"--preset tiny" in cloud.stored("job/train.sh")
    assert b"export SEED=5" in cloud.stored("job/job.env")
    assert "warning" not in output


def test_dry_run_prints_what_create_runs_and_runs_nothing(cloud: Cloud) -> None:
    code, output = cloud.run(*CREATE, "--dry-run")
    assert code == 0 and cloud.state["calls"] == []
    printed = [
        shlex.split(line, comments=True)[1:]
        for line in output.splitlines()
        if line.startswith("gcloud ")
    ]
    cloud.run(*CREATE)
    assert cloud.state["calls"] == printed


def test_no_secret_is_printed_whatever_happens(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    env = ["--env", "HF_TOKEN", "--env", "API_KEY=it's secret"]
    _, dry = cloud.run(*CREATE, *env, "--dry-run")
    _, real = cloud.run(*CREATE, *env)
    assert b"hunter2" in cloud.stored("job/job.env")
    for text in (dry, real, json.dumps(cloud.state)):
        assert "hunter2" not in text and "it's secret" not in text
    assert "HF_TOKEN='***'" in dry


def test_a_gcloud_that_echoes_a_secret_is_masked(cloud: Cloud, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "gcloud"
    script.write_text('#!/bin/sh\necho "bad token hunter2" >&2; exit 3\n')
    code, output = cloud.run(*CREATE, "--env", "HF_TOKEN=hunter2")
    assert code == 1 and "bad token ***" in output and "hunter2" not in output


def test_nothing_is_uploaded_when_a_check_fails(cloud: Cloud) -> None:
    code, output = cloud.run(*CREATE[:-1], "gs://elsewhere/demo")
    assert code == 2 and "--location=us-west4" in output
    assert cloud.verbs == ["storage buckets describe"]
    cloud.run(*CREATE)
    code, output = cloud.run(*CREATE)
    assert code == 2 and "there already" in output
    assert cloud.verbs.count("storage cp") == 4


def test_nothing_is_asked_or_uploaded_for_a_batch_that_can_not_be_shared_out(
    cloud: Cloud,
) -> None:
    for more in ([], ["--dry-run"]):
        code, output = cloud.run(*CREATE, *more, "--", "--preset", "base")
        assert code == 2 and "batch size 200" in output and "16 replicas" in output
    assert cloud.state["calls"] == []
    render = ["render-jobset", "--image", "i", "--name", "demo", *CREATE[-4:]]
    code, output = cloud.run(*render, "--", "--batch-size", "24")
    assert code == 2 and "--batch-size 24" in output and "16 replicas" in output


def test_a_run_directory_of_a_living_job_is_not_given_to_another(cloud: Cloud) -> None:
    cloud.create()
    other = ["demo2" if word == "demo" else word for word in CREATE]
    code, output = cloud.run(*other)
    assert code == 2 and "belongs to demo in us-west4-a" in output
    assert "storage cp" not in cloud.verbs
    cloud.change(nodes={}, requests={})
    code, output = cloud.run(*other)
    assert code == 0, output
    assert b'"name": "demo2"' in cloud.stored("job/job.json")


def test_a_bucket_in_another_region_is_a_warning(cloud: Cloud) -> None:
    buckets = {"gs://bucket": fake_gcloud.bucket_answer("gs://bucket", "EU")}
    cloud.change(buckets=buckets)
    code, output = cloud.run(*CREATE, "--runtime-version", "v9")
    assert code == 0
    assert "the bucket is in EU, the TPU in us-west4" in output
    assert "newest known base image is v2-alpha-tpuv5-lite" in output


def test_status_shows_tpu_and_newest_checkpoint(cloud: Cloud) -> None:
    cloud.create()
    _, output = cloud.run("status", "--run-dir", RUN_DIR)
    assert "last checkpoint  none yet" in output
    state = small_state()
    with Checkpointer(RUN_DIR) as checkpointer:
        advance(state, 7)
        checkpointer.save(state)
    _, output = cloud.run("status", "--run-dir", RUN_DIR)
    assert "queued resource  ACTIVE" in output
    assert "node             READY, HEALTHY" in output
    assert "last checkpoint  step 7, saved 0:00:" in output
    cloud.preempt()
    _, output = cloud.run("status", "--run-dir", RUN_DIR)
    assert "queued resource  SUSPENDED" in output and "`recreate`" in output
    cloud.change(nodes={}, requests={})
    code, output = cloud.run("status", "--run-dir", RUN_DIR)
    assert code == 0 and "queued resource  not there" in output


@pytest.mark.parametrize("command", ["delete", "recreate"])
@pytest.mark.parametrize("typed", ["", "yes\n", "demo2\n"])
def test_what_deletes_refuses_without_a_confirmation(
    cloud: Cloud, command: str, typed: str
) -> None:
    cloud.create()
    code, output = cloud.run(command, "--run-dir", RUN_DIR, typed=typed)
    assert code == 2 and "not confirmed" in output
    assert "demo" in cloud.state["nodes"]


@pytest.mark.parametrize("is_queued", [True, False])
def test_delete_with_the_typed_name_gives_all_back(
    cloud: Cloud, is_queued: bool
) -> None:
    cloud.create(is_queued=is_queued)
    code, output = cloud.run("delete", "--run-dir", RUN_DIR, typed="demo\n")
    assert code == 0, output
    assert cloud.state["nodes"] == cloud.state["requests"] == {}
    assert not open_storage(RUN_DIR).exists("job/job.json")


@pytest.mark.parametrize("is_gone_before", [True, False])
def test_a_job_that_was_deleted_on_purpose_is_not_bought_again(
    cloud: Cloud, is_gone_before: bool
) -> None:
    cloud.create()
    if is_gone_before:  # Preempted, and deleted by Google.
        cloud.change(nodes={}, requests={})
    code, output = cloud.run("delete", "--run-dir", RUN_DIR, "--yes")
    assert code == 0, output
    code, output = cloud.run("recreate", "--run-dir", RUN_DIR, "--if-lost", "--yes")
    assert code == 1 and "no job was created with this run directory" in output
    assert cloud.state["nodes"] == cloud.state["requests"] == {}
    code, output = cloud.run(*CREATE)
    assert code == 0 and "demo" in cloud.state["nodes"]


def test_a_job_whose_deletion_failed_is_still_known(
    cloud: Cloud, tmp_path: Path
) -> None:
    cloud.create()
    script = tmp_path / "bin" / "gcloud"
    script.write_text('#!/bin/sh\necho "PERMISSION_DENIED" >&2; exit 1\n')
    code, _ = cloud.run("delete", "--run-dir", RUN_DIR, "--yes")
    assert code == 1 and cloud.stored("job/job.json")


@pytest.mark.parametrize("is_queued", [True, False])
def test_a_preempted_job_comes_back_with_the_same_request(
    cloud: Cloud, is_queued: bool
) -> None:
    cloud.run(*CREATE, "--queued" if is_queued else "--no-queued")
    first = cloud.state["calls"][-1]
    cloud.preempt()
    code, output = cloud.run("recreate", "--run-dir", RUN_DIR, "--yes")
    assert code == 0, output
    assert cloud.state["calls"][-1] == first
    assert cloud.state["nodes"]["demo"]["state"] == "READY"
    # The files are the ones of the first time: what runs is what ran.
    assert cloud.verbs.count("storage cp") == 4


def test_recreate_if_lost_leaves_a_living_tpu_alone(cloud: Cloud) -> None:
    cloud.create()
    before = len(cloud.verbs)
    code, output = cloud.run("recreate", "--run-dir", RUN_DIR, "--yes", "--if-lost")
    assert code == 0 and "not lost" in output
    assert all(verb.endswith("describe") for verb in cloud.verbs[before:])
    cloud.preempt()
    cloud.run("recreate", "--run-dir", RUN_DIR, "--yes", "--if-lost")
    assert cloud.state["requests"]["demo"]["state"]["state"] == "ACTIVE"
    cloud.change(nodes={}, requests={})  # Deleted behind our back.
    code, output = cloud.run("recreate", "--run-dir", RUN_DIR, "--yes", "--if-lost")
    assert code == 0 and "it was gone already" in output
    assert "demo" in cloud.state["nodes"]


def test_stop_saves_on_the_worker_that_trains(cloud: Cloud) -> None:
    cloud.create()
    code, output = cloud.run("stop", "--run-dir", RUN_DIR)
    assert code == 0 and "still paid for" in output
    assert "worker 0: sudo systemctl stop resumable-tf.service" in output
    assert "compute tpus tpu-vm stop" not in cloud.verbs


@pytest.mark.parametrize("kind", ["v4-8", "v5litepod-8", "v6e-8"])
def test_stop_also_stops_a_node_of_one_host(cloud: Cloud, kind: str) -> None:
    cloud.create(accelerator_type=kind, is_queued=False)
    code, output = cloud.run("stop", "--run-dir", RUN_DIR)
    assert code == 0 and "paid" not in output
    assert cloud.verbs[-2:] == ["compute tpus tpu-vm ssh", "compute tpus tpu-vm stop"]


def test_logs_come_from_the_journal_of_the_asked_host(
    cloud: Cloud, capfd: pytest.CaptureFixture[str]
) -> None:
    cloud.create()
    code, _ = cloud.run("logs", "--run-dir", RUN_DIR, "--worker", "2", "--lines", "9")
    assert code == 0
    out = capfd.readouterr().out
    assert out.startswith("worker 2: sudo journalctl") and "--lines=9" in out
    _, output = cloud.run("logs", "--run-dir", RUN_DIR, "--follow", "--dry-run")
    assert output.startswith("gcloud compute tpus tpu-vm ssh demo") and " -f" in output


@pytest.mark.parametrize("command", ["status", "stop", "delete", "recreate"])
def test_dry_runs_change_nothing(cloud: Cloud, command: str) -> None:
    cloud.create()
    before = cloud.state
    code, output = cloud.run(command, "--run-dir", RUN_DIR, "--dry-run")
    assert code == 0 and output.startswith("gcloud compute tpus")
    assert cloud.state == before


def test_a_run_directory_without_a_job_says_so(cloud: Cloud) -> None:
    code, output = cloud.run("status", "--run-dir", RUN_DIR)
    assert code == 1 and "no job was created" in output


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", DEMO.to_json().replace(b"us-west4-a", b"nowhere")]
)
def test_a_damaged_job_file_is_in_the_way_until_it_is_removed(
    cloud: Cloud, content: bytes
) -> None:
    open_storage(RUN_DIR).write_bytes("job/job.json", content)
    for args in (CREATE, ["status", "--run-dir", RUN_DIR]):
        code, output = cloud.run(*args)
        assert code == 2 and f"remove {RUN_DIR}/job/job.json" in output
        assert "no node" in output
    open_storage(RUN_DIR).delete("job/job.json")
    code, output = cloud.run(*CREATE)
    assert code == 0, output


def test_without_gcloud_the_advice_is_to_install_it(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    code, output = cloud.run(*CREATE)
    assert code == 1 and "cloud.google.com/sdk/docs/install" in output


def test_render_jobset_prints_json_for_kubectl(cloud: Cloud) -> None:
    code, output = cloud.run(
        *"render-jobset --name demo --accelerator-type v6e-8 --image img:1".split(),
        *f"--run-dir {RUN_DIR} --env HF_TOKEN=hunter2 -- --preset base".split(),
    )
    assert code == 0 and "hunter2" not in output
    assert json.loads(output)["kind"] == "JobSet" and "--preset base" in output
