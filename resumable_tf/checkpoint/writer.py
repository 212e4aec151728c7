"""One save at a time, beside the training.

    handle = writer.submit(41000, job)
    handle.result()        # waits; the checkpoint, or the error
    writer.wait()          # the same for whatever is in flight

Every save has its own thread, which ends with it; a new save waits for the one before.
No failure is lost: it is raised by `result`, or else by the next call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

from resumable_tf.checkpoint.manifest import CheckpointInfo
from resumable_tf.errors import ResumableError, SaveError

_NICENESS = 10
"""Of the writing thread. A save takes the same from the steps at any of them, but at 19
it took twice as long beside a training that uses all cores, and could starve."""
_log = logging.getLogger(__name__)


class SaveHandle:
    """A save that is under way, or over.

    Attributes:
        step: The step that is saved.
    """

    def __init__(self, step: int) -> None:
        """Begins as not done.

        Args:
            step: The step that is saved.
        """
        self.step = step
        self._finished = threading.Event()
        # Written by the writer thread before `_finished` is set, read after.
        self._info: CheckpointInfo | None = None
        self._error: BaseException | None = None
        self._is_raised = False

    def done(self) -> bool:
        """Returns whether the save has succeeded or failed."""
        return self._finished.is_set()

    def result(self, timeout_secs: float | None = None) -> CheckpointInfo:
        """Waits for the checkpoint.

        Args:
            timeout_secs: How long to wait; None waits until it is done.

        Returns:
            The committed checkpoint.

        Raises:
            SaveError: If the save failed, or what follows its commit; it says which.
            TimeoutError: If it is not done in time.
        """
        if not self._finished.wait(timeout_secs):
            raise TimeoutError(
                f"the save of step {self.step} is not done after {timeout_secs} s"
            )
        if self._info is not None:
            return self._info
        self._is_raised = True
        error = self._error
        if isinstance(error, _AfterCommitError):
            raise SaveError(
                f"the checkpoint of step {self.step} is saved, but {error}"
            ) from error.__cause__
        raise SaveError(
            f"the checkpoint of step {self.step} was not saved: {describe(error)}. "
            "Checkpoints before it are intact"
        ) from error

    def _run(self, job: Callable[[], CheckpointInfo]) -> None:
        try:
            self._info = job()
        except BaseException as error:  # noqa: BLE001  handed back by result()
            self._error = error
            if isinstance(error, _AfterCommitError):
                _log.error("step %d is saved, but %s", self.step, error)
            else:
                _log.error("the save of step %d failed: %s", self.step, describe(error))
        finally:
            self._finished.set()

    def _failure_is_unheard(self) -> bool:
        return self.done() and self._info is None and not self._is_raised


class Writer:
    """Runs saves one after the other; used from one thread."""

    def __init__(self, *, is_nice: bool = True) -> None:
        """Starts nothing yet.

        Args:
            is_nice: Whether the writing gives way to all other work on this machine.
        """
        self._is_nice = is_nice
        self._handle: SaveHandle | None = None
        self._thread: threading.Thread | None = None

    def submit(self, step: int, job: Callable[[], CheckpointInfo]) -> SaveHandle:
        """Waits for the save before this one, then starts this one.

        Args:
            step: The step that is saved.
            job: Writes the checkpoint.

        Returns:
            The handle of the new save.

        Raises:
            SaveError: If the save before has failed and nobody has heard of it.
        """
        self.wait()
        handle = SaveHandle(step)

        def run() -> None:
            if self._is_nice:
                _lower_priority()
            handle._run(job)

        thread = threading.Thread(target=run, name=f"save-{step}", daemon=False)
        thread.start()
        self._handle, self._thread = handle, thread
        return handle

    def wait(self) -> None:
        """Waits until nothing is being saved.

        Raises:
            SaveError: If the last save has failed and nobody has heard of it.
        """
        self.finish()
        self.raise_failure()

    def finish(self) -> None:
        """Waits until nothing is being saved, and raises nothing."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def step(self) -> int:
        """The step of the last save, 0 before any."""
        return 0 if self._handle is None else self._handle.step

    def is_busy(self) -> bool:
        """Returns whether a save is in flight."""
        return self._handle is not None and not self._handle.done()

    @property
    def has_committed(self) -> bool:
        """Whether only what follows the commit of the last save has failed."""
        handle = self._handle
        return handle is not None and isinstance(handle._error, _AfterCommitError)

    def is_free(self) -> bool:
        """Returns whether a save can begin at once, with no failure to be heard of."""
        handle = self._handle
        return handle is None or (handle.done() and not handle._failure_is_unheard())

    def raise_failure(self) -> None:
        """Raises the last save's failure, if it is over and nobody has heard of it.

        Raises:
            SaveError: That failure.
        """
        if self._handle is not None and self._handle._failure_is_unheard():
            self._handle.result()


class _AfterCommitError(Exception):
    """Something failed, but the checkpoint counts; the cause is the error itself."""


@contextlib.contextmanager
def after_commit(what: str) -> Iterator[None]:
    """Lets what fails in here be told from a save that was not made.

    Args:
        what: What is done, for the message.

    Raises:
        _AfterCommitError: In place of any error.
    """
    try:
        yield
    except BaseException as error:
        raise _AfterCommitError(f"{what} failed: {describe(error)}") from error


def describe(error: BaseException | None) -> str:
    """Returns an error's text, with its class if that says what is wrong."""
    says_all = isinstance(error, ResumableError) or type(error) is OSError
    if says_all or getattr(error, "errno", None):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _lower_priority() -> None:
    """Lets the calling thread, and no other, give way to the training."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread))
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
