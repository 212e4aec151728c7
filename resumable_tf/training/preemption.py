"""Turns a notice that the machine goes into "save, then stop with exit code 75".

    with PreemptionGuard() as guard:
        while state.step < stop_step:
            ...
            checkpointer.maybe_save(state)
            guard.after_step(state, checkpointer)       # may raise Preempted

Signals and the metadata server's notices only leave a request; the state is saved
between two steps. So no save under way is disturbed: it is finished first. A second
Ctrl-C, and a SIGTERM that comes more than a second after the first signal, get the
default treatment at once. Processes forked meanwhile hear signals as without a guard.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NoReturn, Protocol

from resumable_tf.errors import EXIT_PREEMPTED, ResumableError
from resumable_tf.notices.metadata import metadata_pollers
from resumable_tf.notices.notice import Notice, NoticePoller
from resumable_tf.supervising.heartbeat import Heartbeat
from resumable_tf.training.grace import GRACE_SECS, describe_grace
from resumable_tf.training.last_save import save_in_time
from resumable_tf.training.stop_signal import StopSignal

if TYPE_CHECKING:
    from resumable_tf.checkpoint import Checkpointer
    from resumable_tf.state import TrainState

_log = logging.getLogger(__name__)


class Preempted(ResumableError, SystemExit):
    """Training was asked to stop, and did so after a save.

    A program that does not catch it ends with exit code 75: start me again.

    Attributes:
        step: Completed steps in the checkpoint.
    """

    def __init__(self, message: str, *, step: int) -> None:
        """Stores the step beside the message."""
        super().__init__(message)
        self.step = step
        self.code = EXIT_PREEMPTED


class Agreement(Protocol):
    """Asks all hosts at once."""

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set on any host."""


@dataclass(frozen=True)
class StopRequest:
    """Why training is to stop.

    Attributes:
        name: A word: SIGTERM, SIGINT, preempted, maintenance, tpu, another host.
        detail: Who said what.
        time: When, by the guard's clock.
    """

    name: str
    detail: str
    time: float


class PreemptionGuard:
    """Collects what asks for a stop, and stops after a save.

    Sources: SIGTERM and SIGINT; on Google Cloud the metadata server (`preempted`,
    `maintenance-event`, `upcoming-maintenance`); other pollers, such as one for the
    state of a TPU node. The first of them counts.

    Example:
        >>> guard = PreemptionGuard(grace_secs=25.0)
    """

    def __init__(
        self,
        *,
        grace_secs: float = GRACE_SECS,
        sources: Sequence[NoticePoller] | None = None,
        agreement: Agreement | None = None,
        is_running: Callable[[FrameType | None], bool] = lambda frame: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Installs and asks nothing before `__enter__`.

        Args:
            grace_secs: Time from a notice to the machine's end, to save in.
            sources: Further sources; the metadata server's, if this machine has one,
                if None.
            agreement: Asks the other hosts; None if there are none. All hosts must
                then call `after_step` at the same steps.
            is_running: As for `StopSignal`.
            clock: Seconds.

        Raises:
            ValueError: If `grace_secs` is negative.
        """
        if grace_secs < 0:
            raise ValueError(f"grace_secs must be 0 or more, not {grace_secs:g}")
        self.grace_secs = grace_secs
        self._signal = StopSignal(is_running=is_running, clock=clock)
        self._sources = sources
        self._agreement = agreement
        self._clock = clock
        self._heartbeat = Heartbeat.from_environment()
        # Set by pollers' threads too; a plain assignment, the first one stays.
        self._request: StopRequest | None = None

    def __enter__(self) -> PreemptionGuard:
        """Installs the handlers and begins to ask."""
        if self._sources is None:
            self._sources = metadata_pollers()
        self._heartbeat.start()
        self._signal.__enter__()
        for source in self._sources:
            source.start(self._notice)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Puts the former handlers back and asks no more."""
        for source in self._sources or ():
            source.stop()
        self._signal.__exit__(kind, error, trace)

    @property
    def requested(self) -> StopRequest | None:
        """The first request that came to this host, or None; costs nothing."""
        number = self._signal.requested
        if self._request is None and number is not None:
            when = self._signal.requested_at
            when = self._clock() if when is None else when
            self._request = StopRequest(number.name, "a signal to this process", when)
        return self._request

    def request(self, name: str, detail: str = "asked by the program") -> None:
        """Asks for a stop; from any thread.

        Args:
            name: A word for messages.
            detail: Who said what.
        """
        if self.requested is None:
            self._request = StopRequest(name, detail, self._clock())

    def grace_left_secs(self) -> float:
        """Returns the time that is left to save in; all of it without a request."""
        request = self.requested
        if request is None:
            return self.grace_secs
        return self.grace_secs - (self._clock() - request.time)

    def agreed(self) -> StopRequest | None:
        """Returns the request of this or any other host; waits for all hosts."""
        request = self.requested
        if self._agreement is None:
            return request
        # What comes from here on is told at the next step: the others go on now.
        if not self._agreement.any(request is not None):
            return None
        if request is None:
            self.request("another host", "another host was asked to stop")
        return self.requested

    def after_step(self, state: TrainState, checkpointer: Checkpointer | None) -> None:
        """Tells the supervisor of the step; saves and stops if that was asked for.

        Args:
            state: The live objects, between two steps.
            checkpointer: Saves them; None on hosts that leave this to another.

        Raises:
            Preempted: If a stop was requested; the state is saved.
            SaveError: If it can't be saved.
        """
        self._heartbeat.beat(state.step)
        request = self.agreed()
        if request is not None:
            self._save_and_stop(request, state, checkpointer)

    def pause(self, step: int) -> None:
        """Tells the supervisor that no step follows for a while, as in a validation.

        The next `after_step` ends the pause.

        Args:
            step: Completed steps.
        """
        self._heartbeat.pause(step)

    def announce(self, step: int, checkpointer: Checkpointer | None) -> None:
        """Says in the log why training stops, if it does, and what time is left."""
        request = self.requested
        if request is None:
            return
        self._heartbeat.pause(step)
        _log.warning("%s (%s): stopping at step %d", request.name, request.detail, step)
        if checkpointer is not None:
            left = self.grace_left_secs()
            took = checkpointer.save_secs["durable"]
            committed = checkpointer.committed_step
            _log.warning("%s", describe_grace(left, took, committed))

    def save(
        self,
        state: TrainState,
        checkpointer: Checkpointer,
        *,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves as durably as the time that is left allows, and waits for it.

        Args:
            state: The live objects, between two steps.
            checkpointer: Saves them.
            metrics: Finite numbers to keep in the manifest.

        Raises:
            SaveError: If that fails; a failure of an earlier save is only logged.
        """
        save_in_time(state, checkpointer, self.grace_left_secs, metrics=metrics)

    def finish(self, step: int) -> None:
        """Ends a training that is complete; waits for all hosts.

        A host that went before another has saved would take that one down with it.

        Args:
            step: Completed steps.
        """
        self._heartbeat.pause(step)
        if self._agreement is not None:
            self._agreement.any(False)

    def _notice(self, notice: Notice) -> None:
        self.request(notice.name, notice.detail)

    def _save_and_stop(
        self, request: StopRequest, state: TrainState, checkpointer: Checkpointer | None
    ) -> NoReturn:
        """Saves and raises.

        Raises:
            Preempted: Always, unless the save fails.
        """
        self.announce(state.step, checkpointer)
        if checkpointer is not None:
            self.save(state, checkpointer)
        self.finish(state.step)
        raise Preempted(
            f"{request.name}: saved step {state.step} and stopped. "
            "Run the same command to continue.",
            step=state.step,
        )
