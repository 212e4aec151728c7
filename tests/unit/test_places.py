"""What SageMaker, Azure ML and Slurm set, and where a run's files go there."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers.saved_runs import save_steps
from helpers.small_state import advance, assert_at_step, small_state, values

from resumable_tf.checkpoint import Checkpointer
from resumable_tf.errors import UsageError
from resumable_tf.training.places import (
    AZURE_OUTPUT,
    PLACES,
    PlaceDefaults,
    detect_place,
    place_defaults,
)

ROOT = Path(__file__).resolve().parents[2]
SAGEMAKER = {"SM_MODEL_DIR": "/opt/ml/model", "SM_CURRENT_HOST": "algo-1"}
AZURE = {"AZUREML_RUN_ID": "r1", "AZURE_ML_OUTPUT_run": "/mnt/azureml/run"}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "mine",
    "SLURM_SUBMIT_DIR": "/home/me",
}
ABFS = "abfs://container@account.dfs.core.windows.net/runs/x"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            SAGEMAKER,
            PlaceDefaults(
                "sagemaker", "/opt/ml/checkpoints", "/opt/ml/model", grace_secs=120.0
            ),
        ),
        (
            AZURE,
            PlaceDefaults(
                "azureml", "/mnt/azureml/run", "outputs/model", grace_secs=None
            ),
        ),
        (SLURM, PlaceDefaults("slurm", "/home/me/runs/mine", None, grace_secs=None)),
    ],
)
def test_each_place_is_recognised_and_has_its_folders(
    environ: dict[str, str], expected: PlaceDefaults
) -> None:
    assert detect_place(environ) == expected.name
    assert place_defaults(expected.name, environ) == expected


def test_an_ordinary_machine_is_no_place() -> None:
    assert detect_place({"PATH": "/bin", "SM_MODEL_DIR": ""}) is None


@pytest.mark.parametrize("name", PLACES)
def test_a_run_directory_of_the_user_is_kept(name: str) -> None:
    assert place_defaults(name, {}, run_dir="s3://b/run").run_dir == "s3://b/run"


@pytest.mark.parametrize(
    ("name", "environ", "said"),
    [
        ("azureml", {"AZUREML_RUN_ID": "r"}, "output named `run`, or --run-dir abfs"),
        ("slurm", {"SLURM_JOB_ID": "7"}, "SLURM_SUBMIT_DIR and SLURM_JOB_NAME"),
        ("sagemaker", {"TF_CONFIG": "[]"}, "TF_CONFIG is '\\[\\]'"),
        ("kaggle", {}, "none of sagemaker, azureml, slurm"),
    ],
)
def test_a_run_that_could_not_continue_is_refused(
    name: str, environ: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        place_defaults(name, environ)


@pytest.mark.parametrize(
    "cluster",
    [
        {"worker": ["algo-1:8890", "algo-2:8890"]},
        {"chief": ["algo-1:8890"], "worker": ["algo-2:8890"]},
    ],
)
def test_several_sagemaker_hosts_need_one_directory_for_all(
    cluster: dict[str, list[str]],
) -> None:
    workers = {"cluster": cluster}
    environ = {**SAGEMAKER, "TF_CONFIG": json.dumps(workers)}
    with pytest.raises(UsageError, match=r"2 workers[^$]*s3://"):
        place_defaults("sagemaker", environ)
    assert place_defaults("sagemaker", environ, run_dir="s3://b/r").grace_secs == 120


def test_the_page_says_what_the_places_are() -> None:
    page = (ROOT / "docs" / "places.md").read_text("utf-8")
    for environ in (SAGEMAKER, AZURE, SLURM):
        place = place_defaults(str(detect_place(environ)), environ)
        assert f"--place {place.name}" in page or place.name == "slurm"
        if place.grace_secs is not None:
            assert f"{place.grace_secs:g} s" in page
    assert AZURE_OUTPUT in page and "/opt/ml/checkpoints" in page
    script = (ROOT / "scripts" / "slurm_job.sh").read_text("utf-8")
    assert "#SBATCH --signal=B:TERM@60\n" in script and "--signal=B:TERM@60" in page


def _files(run_dir: Path) -> list[Path]:
    return sorted(p.relative_to(run_dir) for p in run_dir.rglob("*") if p.is_file())


def _is_of_newest(name: Path) -> bool:
    return "ckpt-2" in name.name


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_copy_of_files_in_any_order_is_continued_or_the_one_before(
    tmp_path: Path, damage: str, is_reversed: bool
) -> None:
    """SageMaker copies the checkpoint folder file by file, and may be cut off.

    Every prefix of the order is tried, with the file that was on its way missing, cut
    in the middle or empty. The older checkpoint had been copied before.
    """
    save_steps(tmp_path / "run", 1, 2)
    names = [name for name in _files(tmp_path / "run") if _is_of_newest(name)]
    names.sort(reverse=is_reversed)
    found = set()
    for num_copied in range(len(names) + 1):
        copy = tmp_path / f"copy-{num_copied}"
        shutil.copytree(tmp_path / "run", copy)
        for name in names[num_copied:]:
            size = (copy / name).stat().st_size
            (copy / name).unlink()
            if name == names[num_copied] and damage != "missing":
                source = (tmp_path / "run" / name).read_bytes()
                (copy / name).write_bytes(source[: size // 2 if damage == "cut" else 0])
        state = small_state()
        with Checkpointer(str(copy)) as checkpointer:
            checkpointer.restore_or_initialize(state)
        assert_at_step(state, state.step)
        found.add(state.step)
        assert state.step == (2 if num_copied == len(names) else 1)
    assert found == {1, 2}


class _Abfs(MemoryFileSystem):
    """Azure's file system as adlfs has it: container and account in the URL."""

    protocol = "abfs"
    store: dict[str, object] = {}  # noqa: RUF012  as in the parent
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        text = path.removeprefix("abfs://")
        container, at, rest = text.partition("@")
        if at:
            text = f"{container}/{rest.partition('/')[2]}"
        return f"/{text.strip('/')}"


def test_an_abfs_url_holds_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imitated through fsspec; adlfs itself and Azure are not part of this."""
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.setitem(registry._registry, "abfs", _Abfs)
    place = place_defaults("azureml", {"AZUREML_RUN_ID": "r"}, run_dir=ABFS)
    state = small_state()
    with Checkpointer(place.run_dir) as checkpointer:
        for _ in range(3):
            advance(state)
            checkpointer.save(state)
    again = small_state()
    with Checkpointer(place.run_dir) as checkpointer:
        checkpointer.restore_or_initialize(again)
    assert again.step == 3
    for one, other in zip(values(again), values(state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(name.startswith("/container/runs/x/") for name in _Abfs.store)
