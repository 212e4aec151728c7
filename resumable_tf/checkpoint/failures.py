"""What becomes of a save that has failed: the end of the training, or a count.

    failures = Failures(may_continue=True)
    failures.take(error)        # raises it if training must not go on
    failures.status             # "No space left on device"

Training may go on over failures of the storage only. It may not when another process
writes to the run, when the state can't be saved, or when something is wrong with the
program: to try again would not help, or would do harm.
"""

from __future__ import annotations

import logging
import os

from resumable_tf.checkpoint.writer import Writer, describe
from resumable_tf.errors import CheckpointCorruptError, ResumableError, SaveError

_log = logging.getLogger(__name__)


class Failures:
    """The failed saves since the last one that succeeded.

    Attributes:
        count: How many there are.
        last: The last of them, None without any.
    """

    def __init__(self, *, may_continue: bool) -> None:
        """Begins without a failure.

        Args:
            may_continue: Whether training goes on over failures of the storage.
        """
        self._may_continue = may_continue
        self.count = 0
        self.last: SaveError | None = None
        self._last_step = 0

    @property
    def status(self) -> str | None:
        """What is wrong, in a few words; None without a failure."""
        if self.last is None:
            return None
        cause = self.last.__cause__
        number = cause.errno if isinstance(cause, OSError) else None
        text = os.strerror(number) if number else describe(cause or self.last)
        return text.partition("\n")[0]

    def take(self, error: OSError, *, step: int) -> None:
        """Counts a failure.

        Args:
            error: The failed save's, or what kept a save from being begun.
            step: Of that save.

        Raises:
            OSError: That error, if the training must not go on.
        """
        cause = error.__cause__ if type(error) is SaveError else error
        if not self._may_continue or not is_of_storage(cause):
            raise error
        if not isinstance(error, SaveError):
            failure = SaveError(
                f"the checkpoint of step {step} could not be begun: {describe(error)}. "
                "Checkpoints before it are intact"
            )
            failure.__cause__ = error
            _log.error("%s", failure)
            error = failure
        self.count, self.last = self.count + 1, error
        self._last_step = max(step, self._last_step)

    def hear(self, writer: Writer) -> None:
        """Takes the failure of a save that is over, if nobody has heard of it.

        Raises:
            SaveError: That failure, if the training must not go on.
        """
        try:
            writer.raise_failure()
        except SaveError as error:
            # What fails after a commit is not made up for by a copy of that step.
            self.take(error, step=writer.step + writer.has_committed)

    def restored(self) -> None:
        """Begins anew after a restore: a step that failed may come once more."""
        self._last_step = 0

    def succeeded(self, step: int) -> None:
        """Forgets the failures up to a step that is saved; by the thread that did it.

        A copy may come to its end after a newer save has failed.
        """
        if step >= self._last_step:
            self.count, self.last = 0, None

    def raise_last(self) -> None:
        """Raises the last failure, if no save has succeeded since.

        Raises:
            SaveError: That failure.
        """
        if self.last is not None:
            raise self.last


def is_of_storage(error: BaseException | None) -> bool:
    """Returns whether the storage is at fault, and may recover.

    A file that is there although nobody else should write is not of that kind, and
    neither are this project's own errors, but for a file that did not arrive whole.
    """
    if isinstance(error, CheckpointCorruptError):
        return True
    own = (ResumableError, FileExistsError)
    return isinstance(error, OSError) and not isinstance(error, own)


def attach(error: BaseException, save_error: SaveError) -> None:
    """Makes the failure of a save visible in the traceback of another error."""
    if hasattr(error, "add_note"):  # Python 3.11
        error.add_note(f"besides, {save_error}")
    if error.__context__ is None and error.__cause__ is None:
        error.__context__ = save_error
