"""Tries a request to an object store again, if that can help.

    policy = RetryPolicy(num_attempts=3)
    data = policy.run(lambda: files.cat_file(path), what="reading gs://bucket/a")

gcsfs itself repeats each single HTTP request, up to six times over half a minute and
with jitter, on 408, 429, 5xx and broken connections. What it leaves is done here:
requests that time out, a longer outage, and an upload whose session is lost.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import tenacity

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_FINAL = (FileExistsError, FileNotFoundError, PermissionError)
"""Answers, not failures: to ask again would change nothing, or hide a conflict."""


class UploadChangedError(OSError):
    """An object that did not arrive as it was sent; the upload is worth another try."""


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently to try.

    Attributes:
        num_attempts: Tries in all; 1 never repeats.
        first_wait_secs: Longest wait before the second try; it doubles after that.
        max_wait_secs: No wait is longer.
        sleep: Waits; a parameter for tests.
        uniform: Draws a number between two others: the jitter, which keeps many
            clients from coming back at once.
    """

    num_attempts: int = 3
    first_wait_secs: float = 1.0
    max_wait_secs: float = 20.0
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform

    def __post_init__(self) -> None:
        """Checks the number.

        Raises:
            ValueError: If there would be no try at all.
        """
        if self.num_attempts < 1:
            raise ValueError(f"num_attempts must be 1 or more, not {self.num_attempts}")

    def run(self, work: Callable[[], _T], *, what: str) -> _T:
        """Returns what `work` returns, after as many tries as it takes.

        Args:
            work: A request, or several; doing it twice must do no harm.
            what: For the log and the error.

        Raises:
            OSError: If it failed for good; never another class, as gcsfs does.
        """
        tries = tenacity.Retrying(
            sleep=self.sleep,
            stop=tenacity.stop_after_attempt(self.num_attempts),
            wait=lambda state: self.wait_secs(state.attempt_number),
            retry=tenacity.retry_if_exception(is_transient),
            before_sleep=lambda state: _tell(state, what),
            reraise=True,
        )
        try:
            return tries(work)
        except OSError:
            raise
        except _foreign_errors() as error:
            raise OSError(f"{what} failed: {type(error).__name__}: {error}") from error

    def wait_secs(self, num_tries: int) -> float:
        """Returns how long to wait after so many tries."""
        longest = self.first_wait_secs * 2.0 ** (num_tries - 1)
        return self.uniform(0.0, min(longest, self.max_wait_secs))


def is_transient(error: BaseException) -> bool:
    """Returns whether the same request may succeed later."""
    if isinstance(error, _FINAL):
        return False
    passing = (ConnectionError, TimeoutError, asyncio.TimeoutError, UploadChangedError)
    if isinstance(error, passing):
        return True
    retry = sys.modules.get("gcsfs.retry")  # Without it, no error is gcsfs's.
    if retry is None:
        return False
    # A lost upload session; the upload begins anew.
    is_gone = isinstance(error, retry.HttpError) and error.code in (410, "410")
    return bool(is_gone or retry.is_retriable(error))


def _foreign_errors() -> tuple[type[Exception], ...]:
    """Returns the classes that gcsfs raises and that are no `OSError`."""
    own = (asyncio.TimeoutError, ValueError)
    retry = sys.modules.get("gcsfs.retry")
    if retry is None:
        return own
    return (*own, retry.HttpError, *retry.RETRIABLE_EXCEPTIONS)


def _tell(state: tenacity.RetryCallState, what: str) -> None:
    error = state.outcome.exception() if state.outcome else None
    secs = state.next_action.sleep if state.next_action else 0.0
    _log.warning("%s failed (%s); trying again in %.1f s", what, error, secs)
