"""The files that a job puts into its run directory, below `job/`.

    files = job_files(settings, env={"HF_TOKEN": "..."}, project_root=root)
    for file in files:
        gcloud.run(put_command(settings, file.name, file.data, about=file.about))

`source.tar.gz` is the project as the user has it, `train.sh` the command, `job.env` the
environment, `job.json` the settings, from which the other commands know the job.
"""

from __future__ import annotations

import gzip
import io
import re
import shlex
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from resumable_tf.errors import UsageError
from resumable_tf.tpu.accelerators import NEWEST_TENSORFLOW_IMAGE
from resumable_tf.tpu.jobs import OUTCOME, JobSettings, training_line
from resumable_tf.tpu.secrets import MASK

REQUIREMENTS = "requirements-tpu.txt"
STOP_SECS = 25
"""Time to save in; a spot VM ends 30 s after the notice."""
_PACKAGES = ("resumable_tf", "models", "scripts")
_FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", REQUIREMENTS)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class JobFile:
    """One file below `job/`.

    Attributes:
        name: Relative to `job/`.
        data: What it holds, secrets included.
        about: What it is, fit to be shown.
        preview: Its text with the values of variables masked; None for what is no text.
    """

    name: str
    data: bytes
    about: str
    preview: str | None = None


def job_files(
    settings: JobSettings, *, env: Mapping[str, str], project_root: Path
) -> list[JobFile]:
    """Returns the files of a job; `job.json`, which makes it known, is the last.

    Raises:
        UsageError: If the project or a variable's name is not what it must be.
    """
    source = source_archive(project_root)
    command = train_script(settings).encode()
    masked = dict.fromkeys(env, MASK)
    return [
        JobFile("source.tar.gz", source, f"the project, {len(source):,} bytes"),
        JobFile(
            "job.env",
            env_script(settings, env).encode(),
            f"{len(env)} environment variables",
            env_script(settings, masked),
        ),
        JobFile("train.sh", command, "the training command", command.decode()),
        JobFile(
            "job.json",
            settings.to_json(),
            "the job's settings",
            settings.to_json().decode(),
        ),
    ]


def source_archive(project_root: Path) -> bytes:
    """Returns the project as a tar archive; the same files give the same bytes.

    Raises:
        UsageError: If `project_root` is not this project.
    """
    missing = [
        name for name in (*_PACKAGES, *_FILES) if not (project_root / name).exists()
    ]
    if missing:
        raise UsageError(
            f"{project_root} lacks {', '.join(missing)}; the hosts need them.\n"
            "Run the script of a complete checkout."
        )
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for path in _source_files(project_root):
            info = tarfile.TarInfo(str(path.relative_to(project_root)))
            data = path.read_bytes()
            info.size, info.mode = len(data), path.stat().st_mode & 0o755
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def _source_files(root: Path) -> Iterator[Path]:
    for name in _FILES:
        yield root / name
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def env_script(settings: JobSettings, env: Mapping[str, str]) -> str:
    """Returns a shell script that sets the environment of training.

    Raises:
        UsageError: If a name is no name of an environment variable.
    """
    lines = [f"export RESUMABLE_TF_POD_WORKER={pod_worker(settings)}"]
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise UsageError(
                f"--env {name!r} is no name of an environment variable; expected "
                "NAME=VALUE, or NAME to take it from yours."
            )
        lines.append(f"export {name}={shlex.quote(value)}")
    return "\n".join(lines) + "\n"


def pod_worker(settings: JobSettings) -> str:
    """Returns who answers TensorFlow's calls on port 8470 of each host.

    `none`: one host needs nobody. `image`: Google's images for pods
    (`tpu-vm-tf-x.y.z-pod...`) start one, of their own TensorFlow. `own`: the start-up
    script starts `resumable_tf.tpu.pod_worker`, of the TensorFlow that it installed.
    """
    if not settings.accelerator.is_pod:
        return "none"
    return "image" if _is_pod_image(settings.image) else "own"


def _is_pod_image(image: str) -> bool:
    return image.startswith("tpu-vm-tf-") and "-pod" in image


def image_warnings(settings: JobSettings) -> list[str]:
    """Returns what is doubtful about a runtime version that is not the known one."""
    known, image = settings.accelerator.runtime_version, settings.image
    if image == known:
        return []
    match = re.match(r"tpu-vm-tf-(\d+\.\d+\.\d+)", image)
    if match is None:
        return [
            f"--runtime-version {image} is not known for "
            f"{settings.accelerator_type}; the newest known base image is {known}."
        ]
    warnings = [
        f"--runtime-version {image} holds TensorFlow {match.group(1)}; Google's images "
        f"end at {NEWEST_TENSORFLOW_IMAGE}, and {REQUIREMENTS} installs a newer one. "
        f"The newest known base image is {known}."
    ]
    if settings.accelerator.is_pod and not _is_pod_image(image):
        warnings.append(
            f"{settings.accelerator_type} has several hosts; of the tpu-vm-tf images "
            "those with -pod in their name are for them."
        )
    return warnings


def train_script(settings: JobSettings) -> str:
    """Returns the script that worker 0 runs; it becomes the supervisor."""
    lines = []
    if settings.accelerator.is_pod:
        # The one client of a pod: the chips of this host, too, belong to its worker.
        # TPU_NAME, with the addresses of all hosts, is set by the start-up script.
        lines.append("export TPU_LOAD_LIBRARY=0")
    outcome = ("--outcome", f"{settings.job_dir}/{OUTCOME}")
    lines.append(training_line(settings, stop_secs=STOP_SECS, supervisor_args=outcome))
    return "\n".join(lines) + "\n"
