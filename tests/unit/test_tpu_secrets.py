"""What `--env` is given is shown nowhere, whatever its name is."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from helpers.tpu_job import DEMO, small_project
from hypothesis import given
from hypothesis import strategies as st

from resumable_tf.tpu.job_files import job_files
from resumable_tf.tpu.jobset import jobset_manifest
from resumable_tf.tpu.secrets import MASK, Redactor, is_secret_name, secret_flag_in

SECRETS = """
    HF_TOKEN WANDB_API_KEY KEY my-token GCP_CREDENTIALS PGPASSWORD OPENAI_APIKEY DB_PASS
    MYSQL_PWD GITHUB_PAT ACCESSTOKEN CLIENTSECRET ssh_passphrase API_KEY_2 AWS_SECRET
    NPM_AUTH PASS
""".split()
OTHERS = """
    SEED MONKEY TOKENIZER KEYBOARD KEEP_LAST COMPASS PWD_FORMAT BYPASS PATH OLDPATH
    NUM_KEYS_PER_ROW AUTHOR
""".split()
"""Pass through in a manifest, where a value that is masked would be lost."""


@given(
    value=st.text("abc'\"\\ $\n", min_size=1),
    name=st.sampled_from(["HF_TOKEN", "API_KEY", "PGPASSWORD", "AWS_SECRET"]),
)
def test_no_form_of_a_secret_is_shown(value: str, name: str) -> None:
    redact = Redactor({name: value})
    for shown in (value, shlex.quote(value), json.dumps(value)):
        hidden = redact(f"<{shown}>")
        assert value not in hidden and MASK in hidden


@given(value=st.text("abc'\"\\ $\n", min_size=8))
def test_no_form_of_a_long_value_is_shown_whatever_its_name(value: str) -> None:
    redact = Redactor({"DATABASE_URL": value})
    for shown in (value, shlex.quote(value), json.dumps(value)):
        hidden = redact(f"<{shown}>")
        assert value not in hidden and MASK in hidden


def test_a_short_value_of_a_harmless_name_leaves_messages_readable() -> None:
    assert Redactor({"SEED": "5", "MODE": "fast"})("us-west5, fast") == "us-west5, fast"


def test_names_of_secrets_are_recognised_and_others_are_not() -> None:
    for name in SECRETS:
        assert is_secret_name(name), name
    for name in OTHERS:
        assert not is_secret_name(name), name
    assert secret_flag_in(["--hub-pass", "x"]) == "--hub-pass"
    assert secret_flag_in(["--keep-last", "3"]) is None


def test_a_preview_shows_no_value_at_all(tmp_path: Path) -> None:
    """The name of a variable does not tell reliably what its value is."""
    env = {"DATABASE_URL": "postgres://me:hunter2@db/x", "SEED": "5173"}
    files = job_files(DEMO, env=env, project_root=small_project(tmp_path))
    (file,) = (file for file in files if file.name == "job.env")
    assert file.preview is not None
    assert "hunter2" in file.data.decode() and "hunter2" not in file.preview
    assert f"DATABASE_URL='{MASK}'" in file.preview
    assert f"SEED='{MASK}'" in file.preview and "5173" not in file.preview
    assert file.preview.count("\n") == file.data.count(b"\n")


@pytest.mark.parametrize("name", SECRETS)
def test_a_manifest_takes_secrets_from_kubernetes_and_holds_the_rest(name: str) -> None:
    if "-" in name:
        name = name.replace("-", "_")
    manifest = jobset_manifest(DEMO, image="i", env={name: "hunter2", "SEED": "5"})
    text = json.dumps(manifest)
    assert "hunter2" not in text
    assert '{"name": "SEED", "value": "5"}' in text
    assert f'{{"name": "demo-secrets", "key": "{name}"}}' in text
