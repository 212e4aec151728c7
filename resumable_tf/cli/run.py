"""Starts a training until it is finished, whatever ends it.

resumable-tf run -- python scripts/train_translation.py --run-dir gs://bucket/run
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from resumable_tf.errors import EXIT_USAGE, NoticeError, UsageError
from resumable_tf.notices.metadata import MetadataClient, is_on_google_cloud
from resumable_tf.notices.readiness import ReadinessWait, going_machine
from resumable_tf.notices.tpu_node import NodeStatus, TpuNode
from resumable_tf.supervising.events import EventFiles, Events
from resumable_tf.supervising.outcome import OutcomeFile
from resumable_tf.supervising.restarts import RestartPolicy
from resumable_tf.supervising.supervisor import Settings, Supervisor, WaitUntilReady
from resumable_tf.supervising.watchdog import WatchdogSettings

_STDERR = 2


def run(
    command: Annotated[
        list[str], typer.Argument(help="Program and arguments, behind --.")
    ],
    max_fruitless: Annotated[
        int, typer.Option(help="Restarts without a new step before giving up.")
    ] = 3,
    first_delay_secs: Annotated[
        float, typer.Option(help="Wait before a restart; doubles while it is in vain.")
    ] = 1.0,
    max_delay_secs: Annotated[float, typer.Option(help="Longest wait.")] = 300.0,
    hang_factor: Annotated[
        float, typer.Option(help="No step for so many times the median is a hang,")
    ] = 20.0,
    hang_min_secs: Annotated[
        float, typer.Option(help="but never before this long.")
    ] = 300.0,
    hang_max_idle_secs: Annotated[
        float, typer.Option(help="The same before the second step and after the last.")
    ] = 3600.0,
    stop_secs: Annotated[
        float, typer.Option(help="Time to save and end after SIGTERM; then SIGKILL.")
    ] = 300.0,
    tpu: Annotated[
        str | None,
        typer.Option(help="TPU node to wait for before each start (extra: tpu)."),
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="Of the node. [default: this machine's]")
    ] = None,
    zone: Annotated[
        str | None, typer.Option(help="Of the node. [default: this machine's]")
    ] = None,
    tpu_api: Annotated[str, typer.Option(help="v1 or v2.")] = "v2",
    tpu_wait_secs: Annotated[
        float, typer.Option(help="Longest wait for the node to be healthy.")
    ] = 3600.0,
    events: Annotated[
        Path | None, typer.Option(help="File to append the events to. [default: none]")
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            help="File or URL that is there once a start would not help: it was "
            "finished, a crash loop or wrong usage. [default: none]"
        ),
    ] = None,
) -> None:
    """Runs a program until it is finished; restarts it when it is preempted or dies.

    Exit codes: 0 finished, 75 asked to stop (the program has saved), 2 wrong usage,
    70 a crash loop, 69 one whose last crash was for want of devices or hosts.
    """
    try:
        _check_wait(tpu_wait_secs)
        settings = Settings(
            command=command,
            restarts=RestartPolicy(
                max_fruitless=max_fruitless,
                first_delay_secs=first_delay_secs,
                max_delay_secs=max_delay_secs,
            ),
            watchdog=WatchdogSettings(
                factor=hang_factor,
                min_secs=hang_min_secs,
                max_idle_secs=hang_max_idle_secs,
            ),
            stop_secs=stop_secs,
        )
        files = {_STDERR: "standard error"}
        if events is not None:
            files[_open(events)] = str(events)
        log = Events(_writer(files, outcome))
        node = None
        if tpu is not None:
            named = TpuNode(tpu, project=project, zone=zone, api=tpu_api)
            node = ReadinessWait(
                named.status, tell=_teller(log), timeout_secs=tpu_wait_secs
            )
        sys.exit(Supervisor(settings, log, wait_until_ready=_wait(node)).run())
    except UsageError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"UsageError: {error}", markup=False)
        sys.exit(EXIT_USAGE)


def _check_wait(secs: float) -> None:
    """Checks a flag.

    Raises:
        UsageError: If it can't work.
    """
    if not secs >= 0:
        raise UsageError(f"--tpu-wait-secs {secs:g}: must be 0 or more")


def _writer(files: dict[int, str], outcome: str | None) -> Callable[[str], None]:
    """Returns what takes the events; what an earlier run has left is removed."""
    to_files = EventFiles(files)
    if outcome is None:
        return to_files
    file = OutcomeFile(outcome)
    file.clear()

    def write(line: str) -> None:
        to_files(line)
        file(line)

    return write


def _wait(node: WaitUntilReady | None) -> WaitUntilReady:
    """Returns what waits for this machine and, if there is one, its TPU node."""
    machine = MetadataClient() if is_on_google_cloud() else None

    def wait(is_stopping: Callable[[], bool]) -> str | None:
        obstacle = None if machine is None else going_machine(machine)
        if obstacle is None and node is not None:
            obstacle = node(is_stopping)
        return obstacle

    return wait


def _teller(events: Events) -> Callable[[NodeStatus | NoticeError], None]:
    """Returns what tells of a TPU node's states."""

    def tell(status: NodeStatus | NoticeError) -> None:
        if isinstance(status, NodeStatus):
            fields = {
                "status": status.kind.value,
                "state": status.state,
                "health": status.health,
                "detail": status.detail,
            }
        else:
            fields = dict.fromkeys(("state", "health"))
            fields |= {"status": "unknown", "detail": str(status)}
        events.emit("tpu", **fields)

    return tell


def _open(path: Path) -> int:
    """Opens the events' file.

    Raises:
        UsageError: If it can't be written.
    """
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise UsageError(f"--events {path}: {error}") from error
