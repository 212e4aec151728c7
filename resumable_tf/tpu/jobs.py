"""A training job on Cloud TPU VMs: its settings, and the commands that they mean.

    settings = JobSettings(name="demo", project="my-project", zone="us-west4-a",
                           accelerator_type="v5litepod-16", run_dir="gs://bucket/demo")
    for command in create_commands(settings, startup_script="tpu_vm_startup.sh"):
        print(command)

Everything here is a pure function from settings to `gcloud` commands; every flag is in
Google's reference (cloud.google.com/sdk/gcloud/reference/compute/tpus/...).
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.config import PRESETS
from resumable_tf.errors import UsageError
from resumable_tf.tpu.accelerators import Accelerator, parse_accelerator
from resumable_tf.tpu.gcloud import Command
from resumable_tf.tpu.secrets import secret_flag_in

METADATA_KEY = "resumable-tf-job"
"""Metadata of every host: where the job's files are."""
OUTCOME = "outcome.json"
"""Beside the job's files: how training has ended for good (`supervising.outcome`)."""
UNIT = "resumable-tf.service"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_DEFAULT_PRESET = "tiny"
_MAX_FRUITLESS = 8
"""Nobody starts a job again after a crash loop: eight waits outlast some minutes
without the bucket."""
_OURS = ("--run-dir", "--strategy", "--tpu", "--tpu-zone", "--gcp-project", "--place")

# Names as Google's APIs take them; of a path only what needs no quoting anywhere.
_FORMS = {
    "name": (r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", "lower-case letters, digits and -"),
    "project": (r"([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]", "a project ID"),
    "zone": (r"[a-z]+-[a-z]+\d+-[a-z]", "a zone such as us-west4-a"),
    "run_dir": (
        r"gs://[a-z0-9][-a-z0-9._]{1,61}[a-z0-9](/[A-Za-z0-9][-A-Za-z0-9._=]*)+",
        "gs://BUCKET/PATH, of letters, digits and -._=",
    ),
    "runtime_version": (r"[a-z0-9][-a-z0-9._]*", "a runtime version"),
    "service_account": (r"[^@\s]+@[^@\s]+", "an e-mail address"),
    "network": (r"[-a-z0-9/._]+", "a network"),
    "subnetwork": (r"[-a-z0-9/._]+", "a subnetwork"),
    "valid_until": (r"[1-9]\d*[smhd]", "a duration such as 6h"),
}


@dataclass(frozen=True)
class JobSettings:
    """What `create` makes, and all other commands ask for.

    Attributes:
        name: Of the node, and of the queued resource.
        project: Google Cloud project ID.
        zone: Where the TPU is.
        accelerator_type: For instance `v5litepod-16`.
        run_dir: `gs://` URL of the run; the job's own files are in `job/` below it.
        runtime_version: Image of the hosts; the newest base image if None.
        is_spot: Cheaper capacity that Google may take back at any time.
        is_queued: Whether to wait in the queue instead of failing without capacity.
        valid_until: How long a queued request may wait, for instance `6h`.
        service_account: Whom the hosts act as; the project's default if None.
        network: VPC network; `default` if None.
        subnetwork: Its subnetwork.
        train_args: Further flags of `scripts/train_translation.py`.
    """

    name: str
    project: str
    zone: str
    accelerator_type: str
    run_dir: str
    runtime_version: str | None = None
    is_spot: bool = True
    is_queued: bool = True
    valid_until: str | None = None
    service_account: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    train_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks all that can be known without asking Google.

        Raises:
            UsageError: If a value can't work; it names the flag.
        """
        for field, (pattern, expected) in _FORMS.items():
            value = getattr(self, field)
            if value is not None and not re.fullmatch(pattern, value):
                raise UsageError(
                    f"{flag_of(field)} {value!r} can't be used; expected {expected}."
                )
        parse_accelerator(self.accelerator_type)
        if self.valid_until is not None and not self.is_queued:
            raise UsageError(
                f"--valid-until {self.valid_until} has no effect with --no-queued.\n"
                "Leave it out, or use --queued."
            )
        object.__setattr__(self, "train_args", tuple(self.train_args))
        _check_train_args(self.train_args)

    @property
    def accelerator(self) -> Accelerator:
        """What the accelerator type means."""
        return parse_accelerator(self.accelerator_type)

    @property
    def image(self) -> str:
        """The runtime version to ask for."""
        return self.runtime_version or self.accelerator.runtime_version

    @property
    def job_dir(self) -> str:
        """Where the job's own files are."""
        return f"{self.run_dir}/job"

    def to_json(self) -> bytes:
        """Returns what `job/job.json` holds; no environment variable is in it."""
        text = json.dumps(dataclasses.asdict(self), indent=2)
        return text.encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, *, path: str = "job.json") -> JobSettings:
        """Returns the settings of a `job.json`.

        Args:
            data: What it holds.
            path: Where it is, for the error.

        Raises:
            UsageError: If it is none, or another version of this project wrote it.
        """
        try:
            fields: dict[str, Any] = json.loads(data)
            return cls(**{**fields, "train_args": tuple(fields["train_args"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"{path} can't be read ({error}); expected what `create` writes.\n"
                "See with `gcloud compute tpus tpu-vm list` and `queued-resources "
                f"list` that no node of it is left, remove {path}, and run `create` "
                "again."
            ) from error


def flag_of(field: str) -> str:
    """Returns the flag that sets a field of `JobSettings`."""
    return f"--{field.replace('_', '-')}"


def _check_train_args(args: tuple[str, ...]) -> None:
    """Refuses what the job sets itself, and secrets.

    Raises:
        UsageError: If one is there.
    """
    for arg in args:
        name = arg.partition("=")[0]
        if name in _OURS:
            raise UsageError(
                f"{name} after -- is set by the job itself; leave it out there."
            )
    if (flag := secret_flag_in(args)) is not None:
        raise UsageError(
            f"{flag} after -- would be readable in process lists and logs.\n"
            "Pass it as an environment variable: --env NAME takes it from yours."
        )


def create_commands(settings: JobSettings, *, startup_script: str) -> list[Command]:
    """Returns what asks for the TPU; the job's files must be in place.

    Args:
        settings: The job.
        startup_script: Path of `scripts/tpu_vm_startup.sh`.

    Raises:
        UsageError: If Cloud TPU's API does not know the accelerator.
    """
    if not settings.accelerator.runtime_version:
        raise UsageError(
            f"--accelerator-type {settings.accelerator_type}: Cloud TPU's API, and so "
            "`gcloud compute tpus`, does not have this kind.\n"
            "Use Compute Engine or GKE: `render-jobset` writes the same job for GKE."
        )
    request = [
        f"--accelerator-type={settings.accelerator_type}",
        f"--metadata={METADATA_KEY}={settings.job_dir}",
        f"--metadata-from-file=startup-script={startup_script}",
        f"--scopes={_SCOPE}",
    ]
    if settings.is_spot:
        request.append("--spot")
    for field in ("service_account", "network", "subnetwork"):
        if (value := getattr(settings, field)) is not None:
            request.append(f"{flag_of(field)}={value}")
    if not settings.is_queued:
        return [_tpu_vm(settings, "create", f"--version={settings.image}", *request)]
    if settings.valid_until is not None:
        request.append(f"--valid-until-duration={settings.valid_until}")
    image = f"--runtime-version={settings.image}"
    node = f"--node-id={settings.name}"
    return [_queued(settings, "create", node, image, *request)]


def describe_commands(settings: JobSettings) -> tuple[Command, Command | None]:
    """Returns what asks for the node, and for the queued resource if there is one."""
    node = _tpu_vm(settings, "describe", "--format=json")
    if not settings.is_queued:
        return node, None
    return node, _queued(settings, "describe", "--format=json")


def logs_command(settings: JobSettings, *, worker: int, num_lines: int) -> Command:
    """Returns what shows the journal of a host's services."""
    journal = f"sudo journalctl --unit='resumable-tf*' --lines={num_lines} --no-pager"
    return _ssh(settings, str(worker), journal)


def follow_command(settings: JobSettings, *, worker: int) -> Command:
    """Returns what shows the journal as it grows."""
    return _ssh(settings, str(worker), "sudo journalctl --unit='resumable-tf*' -f")


def stop_commands(settings: JobSettings) -> list[Command]:
    """Returns what stops training after a save, and the node where that is possible.

    Worker 0 has the one client; the other hosts have no such unit. Google stops neither
    slices of several hosts nor nodes of a queued resource.
    """
    commands = [_ssh(settings, "0", f"sudo systemctl stop {UNIT}")]
    if can_stop_node(settings):
        commands.append(_tpu_vm(settings, "stop"))
    return commands


def can_stop_node(settings: JobSettings) -> bool:
    """Tells whether the node can be stopped and started instead of deleted."""
    return not settings.is_queued and not settings.accelerator.is_pod


def delete_commands(settings: JobSettings) -> list[Command]:
    """Returns what gives the TPU back; nothing in the bucket is touched."""
    if settings.is_queued:
        # --force deletes the node too; a suspended request is deleted as well.
        return [_queued(settings, "delete", "--force", "--quiet")]
    return [_tpu_vm(settings, "delete", "--quiet")]


def training_line(
    settings: JobSettings, *, stop_secs: int, supervisor_args: Sequence[str] = ()
) -> str:
    """Returns the last line of a script that trains: it becomes the supervisor.

    Args:
        settings: The job.
        stop_secs: What the supervisor leaves training to save in.
        supervisor_args: Further flags of the supervisor.

    Raises:
        UsageError: If the replicas can't share a batch evenly.
    """
    _check_batch_size(settings)
    supervise = ["resumable-tf", "run", "--stop-secs", str(stop_secs)]
    supervise += ["--max-fruitless", str(_MAX_FRUITLESS), *supervisor_args]
    train = ["python", "scripts/train_translation.py", "--strategy", "tpu"]
    train += ["--run-dir", settings.run_dir, "--grace-secs", str(stop_secs)]
    return f"exec {shlex.join([*supervise, '--', *train, *settings.train_args])}"


def _check_batch_size(settings: JobSettings) -> None:
    """Refuses what training would refuse on a TPU that is paid for by then.

    Raises:
        UsageError: If the batch size, where it is known, is no multiple of the
            replicas.
    """
    args = settings.train_args
    given, name = _last(args, "--batch-size"), _last(args, "--preset")
    name = name or _DEFAULT_PRESET
    if given is not None:
        about, size = f"--batch-size {given}", given
    elif name in PRESETS:
        size = str(PRESETS[name].batch_size)
        about = f"the batch size {size} of --preset {name}"
    else:
        return  # Training itself names the presets.
    num_replicas = settings.accelerator.num_replicas
    if size.isdecimal() and int(size) % num_replicas:
        raise UsageError(
            f"{about} can't be divided: {settings.accelerator_type} has {num_replicas} "
            f"replicas.\nUse --batch-size with a multiple of {num_replicas}, after --."
        )


def _last(args: tuple[str, ...], flag: str) -> str | None:
    """Returns the value that a flag has in the end; None if it is not given."""
    found = None
    for word, following in zip(args, (*args[1:], None), strict=False):
        name, equals, value = word.partition("=")
        if name == flag:
            found = value if equals else following
    return found


def bucket_command(settings: JobSettings) -> Command:
    """Returns what asks where the run's bucket is."""
    bucket = settings.run_dir.removeprefix("gs://").partition("/")[0]
    return Command(
        (
            *("gcloud", "storage", "buckets", "describe", f"gs://{bucket}"),
            *(f"--project={settings.project}", "--format=json"),
        )
    )


def put_command(
    settings: JobSettings, name: str, data: bytes, *, about: str
) -> Command:
    """Returns what writes one of the job's files into the run's bucket."""
    target = f"{settings.job_dir}/{name}"
    return Command(
        ("gcloud", "storage", "cp", "-", target, f"--project={settings.project}"),
        stdin=data,
        about=about,
    )


def _tpu_vm(settings: JobSettings, verb: str, *flags: str) -> Command:
    return _tpus(settings, ("tpu-vm", verb), flags)


def _queued(settings: JobSettings, verb: str, *flags: str) -> Command:
    return _tpus(settings, ("queued-resources", verb), flags)


def _ssh(settings: JobSettings, worker: str, command: str) -> Command:
    return _tpu_vm(settings, "ssh", f"--worker={worker}", f"--command={command}")


def _tpus(
    settings: JobSettings, verbs: tuple[str, ...], flags: tuple[str, ...]
) -> Command:
    where = (f"--zone={settings.zone}", f"--project={settings.project}")
    words = ("gcloud", "compute", "tpus", *verbs, settings.name)
    return Command((*words, *where, *flags))
