"""One writer per run: who holds the lease may save, all others may only read.

    lease = Lease(storage)
    lease.take()        # waits for a holder that is not heard of any more
    lease.verify()      # right before a commit: still mine, for as long as it lasts
    lease.release()

The lease is one small file, written with preconditions only: it is created if it is
not there, and replaced if it is of the version that was read. Its holder renews it
four times in `TTL_SECS`. It is taken over when its holder is dead on this host, or has
not renewed it for that long, measured here and not by comparing clocks. Who has lost
it can't renew it, and so can't commit.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import threading
import time
import uuid
import weakref
from collections.abc import Callable

from resumable_tf.checkpoint.holder import Holder
from resumable_tf.checkpoint.layout import LEASE_FILE
from resumable_tf.checkpoint.lease_record import LeaseRecord
from resumable_tf.errors import (
    CheckpointVersionError,
    FencedOffError,
    RunInUseError,
    SaveError,
    StorageError,
)
from resumable_tf.storage import Storage

TTL_SECS = 60.0
"""A lease that was not renewed for so long may be taken over."""
_RENEWALS_PER_TTL = 4
_POLLS_PER_TTL = 30
_NUM_TRIES = 5
"""Where each try fails because of another change: then something else is wrong."""
_TRANSIENT = {
    *(errno.EIO, errno.ESTALE, errno.EDQUOT, errno.EAGAIN, errno.EBUSY),
    *(errno.EINTR, errno.ETIMEDOUT),
}
"""What a network file system says once and not again."""
_RETRY_SECS = 0.5
_CERTAINLY_OVER = 10
"""No two clocks differ by so many times `TTL_SECS`."""
_log = logging.getLogger(__name__)


def elapsed_secs() -> float:
    """Returns a time that never jumps, and goes on while the machine is suspended."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Lease:
    """The right to write to a run; used from any thread."""

    def __init__(
        self,
        storage: Storage,
        *,
        ttl_secs: float | None = None,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = elapsed_secs,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Remembers its arguments; nothing is read or written.

        Args:
            storage: The run directory.
            ttl_secs: How long it lasts without a renewal; None takes `TTL_SECS`.
            clock: Seconds since 1970, for the file.
            elapsed: Seconds since whenever, for all decisions.
            sleep: Waits.
        """
        self._storage = storage
        self._ttl_secs = TTL_SECS if ttl_secs is None else ttl_secs
        self._clock = clock
        self._elapsed = elapsed
        self._sleep = sleep
        # Guards what is below: the renewing thread shares it.
        self._lock = threading.RLock()
        self._record: LeaseRecord | None = None
        self._version = ""
        self._renewed_at = 0.0
        self._stop = threading.Event()

    @property
    def is_held(self) -> bool:
        """Whether it was taken and not given back; another may have it by now."""
        return self._record is not None

    def take(self) -> None:
        """Takes the lease, unless it is held already.

        Raises:
            RunInUseError: If another process has it and is alive.
            StorageError: If the file can be neither made nor read.
        """
        # Without the lock first: a slow renewal must not keep the training waiting.
        if self._record is not None:
            return
        with self._lock:
            for _ in range(_NUM_TRIES):
                version = self._wait_until_free()
                try:
                    self._take_version(version)
                except FileExistsError as error:  # Another process took it just now.
                    cause = error
                    continue
                self._start_renewing()
                return
            raise StorageError(
                f"{self._where} could not be taken in {_NUM_TRIES} tries: {cause}. "
                "Look at what it is; remove it if no training runs there"
            ) from cause

    def verify(self) -> None:
        """Renews the lease: proves that it is held, and is for the next `ttl_secs`.

        Raises:
            FencedOffError: If it was lost, or never taken.
        """
        with self._lock:
            if self._record is None:
                raise FencedOffError(f"{self._where} was not taken by this process")
            record = dataclasses.replace(
                self._record,
                num_renewals=self._record.num_renewals + 1,
                renewed=self._clock(),
            )
            self._renewed_at = self._persist(lambda: self._renew_once(record))
            self._record = record

    def check(self) -> None:
        """The same, but asks nobody while the last renewal is recent enough.

        Raises:
            FencedOffError: If the lease was lost.
        """
        with self._lock:
            age = self._elapsed() - self._renewed_at
            is_recent = self._record is not None and age < self._ttl_secs / 2
        if not is_recent:
            self.verify()

    def release(self) -> None:
        """Gives the lease back, if it is held; another may take it at once.

        Raises:
            SaveError: If the storage failed; the lease then runs out by itself.
        """
        self._stop.set()
        with self._lock:
            if self._record is None:
                return
            try:
                self._delete_own()
            except OSError as error:
                raise SaveError(
                    f"{self._where} could not be deleted: {error}. All checkpoints are "
                    f"intact; it runs out in {self._ttl_secs:.0f} s"
                ) from error
            finally:
                self._record = None

    @property
    def _where(self) -> str:
        return self._storage.locate(LEASE_FILE)

    def _take_version(self, version: str) -> None:
        """Creates the file, or replaces the version of a holder that is gone.

        Raises:
            FileExistsError: If another process was faster.
        """
        record = LeaseRecord(
            token=uuid.uuid4().hex,
            num_renewals=0,
            renewed=self._clock(),
            ttl_secs=self._ttl_secs,
            holder=Holder.this_process(now=self._clock()),
        )
        begin, data = self._elapsed(), record.to_bytes()
        if version:
            version = self._storage.replace(LEASE_FILE, data, version=version)
        else:
            self._storage.create(LEASE_FILE, data)
            found, version = self._storage.read_version(LEASE_FILE)
            if found != data:
                raise FileExistsError(f"{self._where} was written by another process")
        self._record, self._version, self._renewed_at = record, version, begin

    def _renew_once(self, record: LeaseRecord) -> float:
        """Writes a record in place of the last; returns when that began.

        Raises:
            FencedOffError: If the lease is not this process's any more.
        """
        for _ in range(_NUM_TRIES):
            begin = self._elapsed()
            try:
                self._version = self._storage.replace(
                    LEASE_FILE, record.to_bytes(), version=self._version
                )
                return begin
            except FileExistsError as error:
                if not self._find_own():
                    raise FencedOffError(self._lost()) from error
                cause = error
        raise OSError(
            errno.EBUSY,
            f"the lease is this process's and could not be renewed ({cause})",
            self._where,
        ) from cause

    def _persist(self, renew: Callable[[], float]) -> float:
        """Tries again what a file system does not do at once, while the lease lasts."""
        for left in reversed(range(_NUM_TRIES)):
            try:
                return renew()
            except OSError as error:
                ends = self._renewed_at + self._ttl_secs / 2
                is_over = not left or self._elapsed() + _RETRY_SECS > ends
                if error.errno not in _TRANSIENT or is_over:
                    raise
                _log.warning("the lease was not renewed, trying again: %s", error)
            self._sleep(_RETRY_SECS)
        raise AssertionError("the last try returns or raises")

    def _delete_own(self) -> None:
        """Deletes the file if it is of this lease.

        Raises:
            FileExistsError: If it changes again and again.
        """
        for left in reversed(range(_NUM_TRIES)):
            try:
                self._storage.delete_version(LEASE_FILE, version=self._version)
                return
            except FileExistsError:
                if not self._find_own():
                    _log.warning("%s is another's already", self._where)
                    return
                if not left:
                    raise

    def _find_own(self) -> bool:
        """Looks whether the file is still of this lease; takes note of its version.

        It is of another version if the answer to a renewal was lost, for longer than
        was tried, and of the same if the file system could not be asked for a moment.
        """
        try:
            data, version = self._storage.read_version(LEASE_FILE)
            found = LeaseRecord.from_bytes(data)
        except (FileNotFoundError, ValueError):
            return False
        if self._record is None or found.token != self._record.token:
            return False
        self._version = version
        return True

    def _wait_until_free(self) -> str:
        """Returns the version to replace, empty if there is none.

        Raises:
            CheckpointVersionError: If the holder is of a newer version.
            RunInUseError: If the holder is alive.
        """
        seen, begin = "", self._elapsed()
        while True:
            try:
                data, version = self._storage.read_version(LEASE_FILE)
            except FileNotFoundError:
                return ""
            try:
                record = LeaseRecord.from_bytes(data)
            except CheckpointVersionError:
                raise  # Its holder may be alive.
            except ValueError as error:
                _log.warning("%s is damaged (%s); replacing it", self._where, error)
                return version
            if self._is_free(record):
                return version
            if self._is_local_and_alive(record) or seen not in ("", version):
                raise self._in_use(record)
            if self._elapsed() - begin >= record.ttl_secs:
                _log.warning("taking over from %s", record.holder)
                return version
            if not seen:
                _log.warning(
                    "%s is held by %s; waiting for at most %.0f s to see whether it "
                    "is still alive",
                    *(self._where, record.holder, record.ttl_secs),
                )
            seen = version
            self._sleep(record.ttl_secs / _POLLS_PER_TTL)

    def _is_free(self, record: LeaseRecord) -> bool:
        """Returns whether the lease can be taken without waiting."""
        if record.holder.is_this_process():
            return True  # An earlier Checkpointer, which can't commit any more.
        if record.holder.is_dead():
            _log.info("%s is dead; taking over", record.holder)
            return True
        return self._clock() - record.renewed > _CERTAINLY_OVER * record.ttl_secs

    def _is_local_and_alive(self, record: LeaseRecord) -> bool:
        is_local = self._storage.local_path(LEASE_FILE) is not None
        return is_local and record.holder.is_here()

    def _in_use(self, record: LeaseRecord) -> RunInUseError:
        holder = record.holder
        return RunInUseError(
            f"{self._storage.root} is in use: another process trains in it.\n"
            f"  writer: {holder}\n"
            f"  now:    {Holder.this_process(now=self._clock())}\n"
            f"Wait for it, stop it (kill {holder.pid} on {holder.host}), or give "
            "another run directory.",
            host=holder.host,
            pid=holder.pid,
            since=holder.since,
        )

    def _lost(self) -> str:
        """Says what is known of the one who has the lease now."""
        advice, is_gone = "End this process; the other one goes on.", False
        try:
            data, _ = self._storage.read_version(LEASE_FILE)
            holder = LeaseRecord.from_bytes(data).holder
            writer = str(holder)
            if holder.is_this_process():
                advice = "Another Checkpointer of this process has begun to save to it."
        except (FileNotFoundError, ValueError):
            writer, is_gone = f"none, {LEASE_FILE} was deleted or damaged", True
            advice = "Start again; nobody else is known to write."
        silent = self._elapsed() - self._renewed_at
        to_whom = "" if is_gone else " to another writer"
        return (
            f"this process has lost {self._storage.root}{to_whom}, after "
            f"{silent:.0f} s without a renewal (allowed: {self._ttl_secs:.0f} s).\n"
            f"  writer: {writer}\n"
            f"  now:    {self._record and self._record.holder}\n"
            f"Nothing was committed. {advice}"
        )

    def _start_renewing(self) -> None:
        self._stop = threading.Event()
        # A lease that nobody refers to any more is not renewed.
        arguments = (weakref.ref(self), self._stop, self._ttl_secs / _RENEWALS_PER_TTL)
        # It must not keep the process alive: a lease also runs out by itself.
        threading.Thread(
            target=_renew, args=arguments, name="lease", daemon=True
        ).start()


def _renew(
    reference: weakref.ref[Lease], stop: threading.Event, every_secs: float
) -> None:
    """Renews a lease until it is released, lost or forgotten; on its own thread."""
    while not stop.wait(every_secs):
        lease = reference()
        if lease is None:
            return
        try:
            with lease._lock:
                if not stop.is_set():
                    lease.verify()
        except FencedOffError as error:
            _log.error("%s", error)
            return
        except OSError as error:
            _log.warning("the lease was not renewed, will try again: %s", error)
        del lease
