"""Trains on Cloud TPU VMs: creates, watches, stops, deletes and re-creates a job.

    python scripts/tpu_vm_job.py create --name demo --project my-project \
        --zone us-west4-a --accelerator-type v5litepod-16 --run-dir gs://bucket/demo
    python scripts/tpu_vm_job.py status --run-dir gs://bucket/demo

All but `create` and `render-jobset` read the job from its run directory. `--dry-run`
prints what would be run, and runs nothing that has an effect. Exit codes: 0 done, 2
wrong usage or not confirmed, 1 anything else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from resumable_tf.errors import (
    EXIT_FAILED,
    EXIT_USAGE,
    NoCheckpointError,
    ResumableError,
    UsageError,
)
from resumable_tf.storage import Storage, open_storage
from resumable_tf.tpu.checks import check_before_create
from resumable_tf.tpu.gcloud import Command, Gcloud
from resumable_tf.tpu.job_files import JobFile, job_files
from resumable_tf.tpu.jobs import (
    JobSettings,
    bucket_command,
    can_stop_node,
    create_commands,
    delete_commands,
    describe_commands,
    follow_command,
    logs_command,
    put_command,
    stop_commands,
)
from resumable_tf.tpu.jobset import jobset_manifest
from resumable_tf.tpu.secrets import Redactor
from resumable_tf.tpu.status import (
    OUTCOME_FILE,
    SETTINGS_FILE,
    read_settings,
    read_status,
)

ROOT = Path(__file__).resolve().parents[1]
STARTUP = Path(__file__).with_name("tpu_vm_startup.sh")
_console = Console(stderr=True, highlight=False, soft_wrap=True)

app = typer.Typer(
    help="A training job on Cloud TPU VMs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
RunDir = Annotated[str, typer.Option(help="The job's run directory, gs://...")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print, and run nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Of the node and its request.")],
    project: Annotated[str, typer.Option(help="Google Cloud project ID.")],
    zone: Annotated[str, typer.Option(help="Such as us-west4-a.")],
    accelerator_type: Annotated[str, typer.Option(help="Such as v5litepod-16.")],
    run_dir: RunDir,
    runtime_version: Annotated[
        str | None, typer.Option(help="Image. [default: the newest known base image]")
    ] = None,
    spot: Annotated[
        bool, typer.Option(help="Cheaper, but may be taken away at any time.")
    ] = True,
    queued: Annotated[
        bool, typer.Option(help="Wait for capacity in Google's queue.")
    ] = True,
    valid_until: Annotated[
        str | None, typer.Option(help="How long to wait in the queue, such as 6h.")
    ] = None,
    service_account: Annotated[
        str | None, typer.Option(help="Whom the hosts act as.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="VPC network.")] = None,
    subnetwork: Annotated[str | None, typer.Option(help="Its subnetwork.")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE, or NAME to take it from yours."),
    ] = None,
    dry_run: DryRun = False,
    train_args: Annotated[
        list[str] | None,
        typer.Argument(help="After --: flags of train_translation.py."),
    ] = None,
) -> None:
    """Puts the project into the bucket and asks for the TPU."""
    given = dict(locals())
    _guarded(lambda: _create(_settings(given), _environment(env), dry_run))


@app.command()
def status(run_dir: RunDir, dry_run: DryRun = False) -> None:
    """Shows the TPU's state, the newest checkpoint, and whether training has ended."""

    def show() -> None:
        storage = open_storage(run_dir)
        settings = read_settings(storage)
        if dry_run:
            _print_commands([c for c in describe_commands(settings) if c is not None])
            return
        found = read_status(settings, _gcloud(), storage)
        print(f"job              {settings.name}, {settings.accelerator_type}")
        print("\n".join(found.lines(now=time.time())))

    _guarded(show)


@app.command()
def logs(
    run_dir: RunDir,
    worker: Annotated[int, typer.Option(help="Host.", min=0)] = 0,
    lines: Annotated[int, typer.Option(help="How many.", min=1)] = 200,
    follow: Annotated[bool, typer.Option("--follow", help="Go on.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Shows the journal of a host; the client is on host 0."""

    def show() -> None:
        settings = read_settings(open_storage(run_dir))
        command = logs_command(settings, worker=worker, num_lines=lines)
        if follow:
            command = follow_command(settings, worker=worker)
        if dry_run:
            _print_commands([command])
        elif code := _gcloud().show(command):
            raise SystemExit(code)

    _guarded(show)


@app.command()
def stop(run_dir: RunDir, dry_run: DryRun = False) -> None:
    """Stops training after a save, and the node where Google can stop it."""

    def act() -> None:
        settings = read_settings(open_storage(run_dir))
        _run_all(stop_commands(settings), _gcloud(), dry_run)
        if not dry_run and not can_stop_node(settings):
            _console.print(
                "The node can't be stopped (several hosts, or a queued resource) and "
                "is still paid for: `delete` gives it back, `recreate` goes on."
            )

    _guarded(act)


@app.command()
def delete(run_dir: RunDir, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Gives the TPU back and forgets the job; all that training wrote stays."""

    def act() -> None:
        storage = open_storage(run_dir)
        settings = read_settings(storage)
        _confirm(settings, "delete", yes or dry_run)
        _run_all(delete_commands(settings), _gcloud(), dry_run, may_be_gone=True)
        # Last: as long as the job is known, `recreate --if-lost` would buy it again.
        _remove(storage, SETTINGS_FILE, dry_run)

    _guarded(act)


@app.command()
def recreate(
    run_dir: RunDir,
    yes: Yes = False,
    if_lost: Annotated[
        bool, typer.Option("--if-lost", help="Only if the TPU was taken away.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Deletes the TPU and asks for it again; training goes on where it was."""

    def act() -> None:
        storage = open_storage(run_dir)
        settings, gcloud = read_settings(storage), _gcloud()
        if if_lost and not dry_run:
            found = read_status(settings, gcloud, storage)
            if found.outcome is not None:
                print(
                    f"{settings.name} has ended ({found.outcome.reason}); nothing was "
                    "done. `delete` forgets it, `recreate` without --if-lost goes on."
                )
                return
            if not found.is_lost:
                print(f"{settings.name} is not lost; nothing was done")
                return
        _confirm(settings, "delete and create again", yes or dry_run)
        _run_all(delete_commands(settings), gcloud, dry_run, may_be_gone=True)
        _remove(storage, OUTCOME_FILE, dry_run)
        _run_all(
            create_commands(settings, startup_script=str(STARTUP)), gcloud, dry_run
        )

    _guarded(act)


@app.command("render-jobset")
def render_jobset(
    name: Annotated[str, typer.Option(help="Of the JobSet.")],
    accelerator_type: Annotated[str, typer.Option(help="Such as v5litepod-16.")],
    run_dir: RunDir,
    image: Annotated[str, typer.Option(help="Container image with the project.")],
    spot: Annotated[bool, typer.Option(help="On spot nodes.")] = True,
    service_account: Annotated[
        str | None, typer.Option(help="Of Kubernetes, as NAME@PROJECT.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, or NAME from yours.")
    ] = None,
    train_args: Annotated[
        list[str] | None,
        typer.Argument(help="After --: flags of train_translation.py."),
    ] = None,
) -> None:
    """Prints the same job as a JobSet for GKE, in JSON, which kubectl takes."""
    given = dict(locals())
    # GKE knows neither; nothing of the manifest depends on them.
    given |= {"project": "unused-on-gke", "zone": "us-central1-a", "queued": False}

    def show() -> None:
        manifest = jobset_manifest(_settings(given), image=image, env=_environment(env))
        print(json.dumps(manifest, indent=2))

    _guarded(show)


def _create(settings: JobSettings, env: dict[str, str], is_dry_run: bool) -> None:
    redact = Redactor(env)
    gcloud = Gcloud(redact=redact)
    files = job_files(settings, env=env, project_root=ROOT)
    request = create_commands(settings, startup_script=str(STARTUP))
    if is_dry_run:
        checks = [bucket_command(settings), *describe_commands(settings)]
        print("# Checks without an effect:")
        _print_commands([command for command in checks if command is not None])
        print("# The job:")
    else:
        previous = _previous(settings)
        for warning in check_before_create(settings, gcloud, previous=previous):
            _console.print(f"warning: {warning}", markup=False)
    puts = [_put(settings, file) for file in files]
    if is_dry_run:
        for command, file in zip(puts, files, strict=True):
            _print_commands([command])
            if file.preview is not None:
                print("".join(f"#   {x}\n" for x in file.preview.splitlines()), end="")
    else:
        _run_all(puts, gcloud, False)
    # It goes on, so that it has not ended: a TPU that is taken away is wanted again.
    _remove(open_storage(settings.run_dir), OUTCOME_FILE, is_dry_run)
    _run_all(request, gcloud, is_dry_run)


def _remove(storage: Storage, name: str, is_dry_run: bool) -> None:
    if is_dry_run:
        print(f"# Then {storage.locate(name)} is removed.")
    else:
        storage.delete(name)


def _previous(settings: JobSettings) -> JobSettings | None:
    """Returns another job that was created with the same run directory."""
    try:
        previous = read_settings(open_storage(settings.run_dir))
    except NoCheckpointError:
        return None
    is_same = (previous.name, previous.zone) == (settings.name, settings.zone)
    return None if is_same else previous


def _put(settings: JobSettings, file: JobFile) -> Command:
    return put_command(settings, file.name, file.data, about=file.about)


def _settings(given: dict[str, object]) -> JobSettings:
    flags = {"spot": "is_spot", "queued": "is_queued"}
    known = {flags.get(name, name): value for name, value in given.items()}
    known["train_args"] = tuple(known["train_args"] or ())
    fields = JobSettings.__dataclass_fields__
    return JobSettings(**{k: v for k, v in known.items() if k in fields})


def _environment(given: Sequence[str] | None) -> dict[str, str]:
    """Returns the variables of --env.

    Raises:
        UsageError: If one is to be taken from an environment that lacks it.
    """
    found = {}
    for item in given or ():
        name, equals, value = item.partition("=")
        if not equals:
            if name not in os.environ:
                raise UsageError(
                    f"--env {name}: it is not set here. Use {name}=VALUE, or export it."
                )
            value = os.environ[name]
        found[name] = value
    return found


def _gcloud() -> Gcloud:
    return Gcloud(redact=Redactor({}))


def _run_all(
    commands: Sequence[Command],
    gcloud: Gcloud,
    is_dry_run: bool,
    *,
    may_be_gone: bool = False,
) -> None:
    if is_dry_run:
        _print_commands(commands)
        return
    for command in commands:
        _console.print(f"+ {command}", markup=False)
        try:
            print(gcloud.run(command), end="")
        except ResumableError as error:
            if not (may_be_gone and getattr(error, "is_not_found", False)):
                raise
            print("it was gone already")


def _print_commands(commands: Sequence[Command]) -> None:
    for command in commands:
        print(command)


def _confirm(settings: JobSettings, what: str, is_sure: bool) -> None:
    """Asks for the job's name.

    Raises:
        UsageError: If it is not given.
    """
    if is_sure:
        return
    question = f"{what} {settings.name} in {settings.zone}? Type its name to confirm"
    try:
        typed = input(f"{question}: ")
    except EOFError:
        typed = ""
    if typed.strip() != settings.name:
        raise UsageError(
            "not confirmed; nothing was done. Type the name, or use --yes."
        )


def _guarded(act: Callable[[], None]) -> None:
    try:
        act()
    except (ResumableError, OSError) as error:
        _console.print(f"{type(error).__name__}: {error}", markup=False)
        is_usage = isinstance(error, UsageError)
        sys.exit(EXIT_USAGE if is_usage else EXIT_FAILED)


if __name__ == "__main__":
    app()
