"""What other services expect of a training: where its files go, how it is stopped.

    place = place_defaults("sagemaker", os.environ)
    place.run_dir, place.export_dir, place.grace_secs

A place only fills in what the user has not given. Sources: SageMaker's pages "Use
Checkpoints" and "StoppingCondition" and the environment variables of its training
toolkit; Azure Machine Learning's "Access data in a job"; Slurm's sbatch(1).
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from resumable_tf.errors import UsageError
from resumable_tf.training.cluster_task import cluster_task

PLACES = ("sagemaker", "azureml", "slurm")
AZURE_OUTPUT = "AZURE_ML_OUTPUT_run"
"""Set by Azure ML to the folder of the job's output named `run`."""


@dataclass(frozen=True)
class PlaceDefaults:
    """What a place has in store for a training.

    Attributes:
        name: The place.
        run_dir: Run directory that outlives the machine.
        export_dir: Where the place looks for the finished model; None if nowhere.
        grace_secs: From SIGTERM to SIGKILL; None if the place promises nothing.
    """

    name: str
    run_dir: str
    export_dir: str | None
    grace_secs: float | None


def detect_place(environ: Mapping[str, str]) -> str | None:
    """Returns the place that an environment is of, None for an ordinary machine."""
    marks = {
        "sagemaker": "SM_MODEL_DIR",
        "azureml": "AZUREML_RUN_ID",
        "slurm": "SLURM_JOB_ID",
    }
    for name, variable in marks.items():
        if environ.get(variable):
            return name
    return None


def place_defaults(
    name: str, environ: Mapping[str, str], *, run_dir: str | None = None
) -> PlaceDefaults:
    """Returns what holds at a place.

    Args:
        name: `sagemaker`, `azureml` or `slurm`.
        environ: The environment variables that the place has set.
        run_dir: What the user has given; it is kept.

    Raises:
        UsageError: If `name` is none of these, the environment is not of that place, or
            the place has no directory that outlives the machine.
    """
    if name not in PLACES:
        raise UsageError(
            f"--place {name!r} is none of {', '.join(PLACES)}, auto. Use one of these."
        )
    if name == "sagemaker":
        return _sagemaker(environ, run_dir)
    if name == "azureml":
        return _azureml(environ, run_dir)
    return _slurm(environ, run_dir)


def _sagemaker(environ: Mapping[str, str], run_dir: str | None) -> PlaceDefaults:
    """Checkpoints in the folder that SageMaker copies to and from S3.

    Raises:
        UsageError: If there are several hosts, which have such a folder each.
    """
    base = environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")
    num_hosts = cluster_task(environ).count
    if run_dir is None and num_hosts > 1:
        raise UsageError(
            f"--place sagemaker: TF_CONFIG names {num_hosts} workers, and each host "
            "has a checkpoint folder of its own.\n"
            "Give all of them one run directory: --run-dir s3://BUCKET/PATH."
        )
    model_dir = environ.get("SM_MODEL_DIR", posixpath.join(base, "model"))
    chosen = run_dir or posixpath.join(base, "checkpoints")
    return PlaceDefaults("sagemaker", chosen, model_dir, 120.0)


def _azureml(environ: Mapping[str, str], run_dir: str | None) -> PlaceDefaults:
    """The job's output named `run`; `outputs/` is lost with a preempted node.

    Raises:
        UsageError: If there is no such output.
    """
    chosen = run_dir or environ.get(AZURE_OUTPUT)
    if not chosen:
        raise UsageError(
            f"--place azureml: {AZURE_OUTPUT} is not set, so there is no folder that "
            "outlives a preempted node.\n"
            "Give the job an output named `run`, or --run-dir "
            "abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH."
        )
    return PlaceDefaults("azureml", chosen, posixpath.join("outputs", "model"), None)


def _slurm(environ: Mapping[str, str], run_dir: str | None) -> PlaceDefaults:
    """A folder named after the job, where it was submitted: a requeued job finds it.

    Raises:
        UsageError: If it is no Slurm job.
    """
    names = ("SLURM_SUBMIT_DIR", "SLURM_JOB_NAME")
    missing = [name for name in names if not environ.get(name)]
    if run_dir is None and missing:
        raise UsageError(
            f"--place slurm: {' and '.join(missing)} not set; expected what sbatch "
            "sets.\nSubmit scripts/slurm_job.sh, or give --run-dir."
        )
    chosen = run_dir or posixpath.join(
        environ["SLURM_SUBMIT_DIR"], "runs", environ["SLURM_JOB_NAME"]
    )
    return PlaceDefaults("slurm", chosen, None, None)
