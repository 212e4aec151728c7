"""Every exception that the project raises on purpose.

    try:
        checkpointer.restore_or_initialize(state)
    except rtf.DataMismatchError as error:
        print(error.saved, error.now)

Each message has three parts: what happened with both values, what was expected,
and how to mend it. Each class is also a subclass of the builtin that fits.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

EXIT_FINISHED = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69
EXIT_CRASH_LOOP = 70
EXIT_PREEMPTED = 75
"""Exit codes of every command: finished, failed, wrong usage, devices or hosts are not
there, a crash loop, restart me. Those from 69 on are of `sysexits.h`."""


_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.:-]*://)(?P<user>[^/?#\s]*@)?(?P<rest>[^\s,\"'<>]*)"
)


def printable(text: str) -> str:
    """Returns text from outside as a terminal may show it; the rest is escaped.

    Names from files can hold escape sequences that act on a terminal, marks that turn
    the direction of what follows, and bytes that are no text.

    Args:
        text: Any text; its line ends are kept.
    """
    return "".join(c if c == "\n" or _is_shown(c) else _escape(c) for c in text)


def without_secrets(text: str) -> str:
    """Returns text in which URLs show no password, signature or token.

    What stands before `@` in a URL, and all values behind its `?`, become `***`; so do
    credentials behind its `#`.

    Args:
        text: Text with any number of URLs, such as the value of `--data`.
    """
    return _URL.sub(_hide, text)


def _hide(match: re.Match[str]) -> str:
    user, rest = match["user"], match["rest"]
    rest, has_query, query = rest.partition("?")
    hidden = re.sub(r"=[^&#]*", "=***", query) if "=" in query else "***"
    shown = f"{rest}?{hidden}" if has_query else rest
    return f"{match['scheme']}{'***@' if user else ''}{shown}"


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class ResumableError(Exception):
    """Base class of all errors of this project."""


class UsageError(ResumableError, ValueError):
    """A flag or an argument that can't work; commands exit with code 2."""


class DataFormatError(ResumableError, ValueError):
    """A corpus or record file that can't be read as what it should be.

    Attributes:
        path: The file at fault.
    """

    def __init__(self, message: str, *, path: str) -> None:
        """Stores the file at fault beside the message."""
        super().__init__(message)
        self.path = path


class MismatchError(ResumableError, ValueError):
    """What was saved and what is there now do not fit together.

    Attributes:
        saved: The values that were saved.
        now: The values of this start.
    """

    def __init__(
        self, message: str, *, saved: Mapping[str, Any], now: Mapping[str, Any]
    ) -> None:
        """Stores both sides beside the message."""
        super().__init__(message)
        self.saved = dict(saved)
        self.now = dict(now)


class ConfigMismatchError(MismatchError):
    """The run directory was begun with other settings (model, seed, ...)."""


class DataMismatchError(MismatchError):
    """The data set, its seed or the global batch size is not the saved one."""


class FastTierMismatchError(MismatchError):
    """The fast tier's directory holds checkpoints of another run."""


class CheckpointMismatchError(ResumableError, ValueError):
    """A checkpoint's entries are not those of the live objects.

    Attributes:
        missing: Keys that the live objects have and the checkpoint lacks.
        unexpected: Keys that only the checkpoint has.
        changed: Lines naming the keys whose shape or dtype differs.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        changed: Sequence[str] = (),
    ) -> None:
        """Stores the three lists beside the message."""
        super().__init__(message)
        self.missing = list(missing)
        self.unexpected = list(unexpected)
        self.changed = list(changed)


class CheckpointCorruptError(ResumableError, OSError):
    """A file of a checkpoint is damaged, truncated or missing."""


class CheckpointVersionError(ResumableError, ValueError):
    """A checkpoint or run.json was written by a newer version of this project."""


class UnsafeFileError(ResumableError, OSError):
    """Where a file of ours should be is none that may be read: a link, a pipe, ..."""


class NoCheckpointError(ResumableError, FileNotFoundError):
    """There is no committed checkpoint where one is needed."""


class StorageError(ResumableError, OSError):
    """A run directory or a fast tier that can't be used as it is."""


class SaveError(ResumableError, OSError):
    """A checkpoint could not be written, or what follows its commit; it says which."""


class FencedOffError(SaveError):
    """Another process writes to the run now; this one can't commit any more."""


class RunInUseError(ResumableError, BlockingIOError):
    """Another process, which is alive, writes to the run.

    Attributes:
        host: Name of its machine.
        pid: Its process number there.
        since: When it began, in seconds since 1970.
    """

    def __init__(self, message: str, *, host: str, pid: int, since: float) -> None:
        """Stores who it is beside the message."""
        super().__init__(message)
        self.host = host
        self.pid = pid
        self.since = since


class StateError(ResumableError, TypeError):
    """Something that changes during training can't be saved as it is."""


class NonFiniteLossError(ResumableError, FloatingPointError):
    """The loss became NaN or infinite.

    Attributes:
        first_step: The first step whose loss is not finite.
        last_checkpoint: The step of the last good checkpoint, or None.
    """

    def __init__(
        self, message: str, *, first_step: int, last_checkpoint: int | None
    ) -> None:
        """Stores the steps beside the message."""
        super().__init__(message)
        self.first_step = first_step
        self.last_checkpoint = last_checkpoint


class NoticeError(ResumableError, OSError):
    """The metadata server or the TPU API has given no answer, or a wrong one."""


class DeviceError(ResumableError, RuntimeError):
    """The devices that a strategy needs are not there."""


class CloudError(ResumableError, RuntimeError):
    """A cloud's command line failed; what it said is in the message, without secrets.

    Attributes:
        is_not_found: Whether it failed because the resource is not there.
    """

    def __init__(self, message: str, *, is_not_found: bool = False) -> None:
        """Stores the kind beside the message."""
        super().__init__(message)
        self.is_not_found = is_not_found


class CompilerEnvironmentError(ResumableError, RuntimeError):
    """The environment of the TPU compiler can't be made or used here."""


class HostLostError(ResumableError, ConnectionError):
    """A process on which training depends is gone; start all of them again."""
