"""Runs `gcloud`, or says what would be run.

    gcloud = Gcloud(redact=Redactor({}))
    text = gcloud.run(Command(("gcloud", "config", "list", "--format=json")))

Commands are data, made by pure functions; this is the one place that has effects.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resumable_tf.errors import CloudError


@dataclass(frozen=True)
class Command:
    """One call of `gcloud`.

    Attributes:
        argv: The words of the command.
        stdin: What it reads; it may hold secrets, so it is never shown.
        about: What `stdin` is, in a few words that may be shown.
    """

    argv: tuple[str, ...]
    stdin: bytes | None = None
    about: str = ""

    def __str__(self) -> str:
        """The line as a shell takes it, without what it reads."""
        line = shlex.join(self.argv)
        return f"{line}  # reads {self.about}" if self.stdin is not None else line


Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


class Gcloud:
    """Runs commands and turns their failures into typed errors."""

    def __init__(
        self, *, redact: Callable[[str], str], run: Run = subprocess.run
    ) -> None:
        """Starts nothing.

        Args:
            redact: Masks secrets in what `gcloud` answers.
            run: `subprocess.run`, or a stand-in.
        """
        self._redact = redact
        self._run = run

    def run(self, command: Command) -> str:
        """Runs a command to its end and returns what it printed.

        Raises:
            CloudError: If `gcloud` is missing or failed.
        """
        done = self._start(command, capture_output=True, input=command.stdin or b"")
        if done.returncode:
            said = self._redact(done.stderr.decode("utf-8", "replace").strip())
            raise CloudError(
                f"{self._redact(str(command))}\nended with {done.returncode}: {said}",
                is_not_found="NOT_FOUND" in said or "not found" in said,
            )
        return done.stdout.decode("utf-8", "replace")

    def show(self, command: Command) -> int:
        """Runs a command on the user's terminal and returns its exit code.

        Raises:
            CloudError: If `gcloud` is missing.
        """
        return self._start(command).returncode

    def describe(self, command: Command) -> dict[str, Any] | None:
        """Returns the JSON that a `describe` prints; None if there is no such thing.

        Raises:
            CloudError: If `gcloud` fails for another reason, or prints no JSON.
        """
        try:
            text = self.run(command)
        except CloudError as error:
            if error.is_not_found:
                return None
            raise
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise CloudError(
                f"{command}\nprinted no JSON: {self._redact(text[:200])!r}"
            ) from error
        return found

    def _start(
        self, command: Command, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            return self._run(list(command.argv), check=False, **options)
        except FileNotFoundError as error:
            raise CloudError(
                f"{command.argv[0]!r} is not on PATH.\n"
                "Install the Google Cloud CLI (cloud.google.com/sdk/docs/install) and "
                "run `gcloud auth login`."
            ) from error
