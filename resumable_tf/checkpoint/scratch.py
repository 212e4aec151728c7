"""A temporary directory for a bundle on its way to or from an object store.

    with scratch_directory() as directory:      # below $TMPDIR
        ...

A bundle is as large as the state, and SIGKILL leaves it there. So the name says whose
it is, from the moment at which it exists, and whoever makes the next one removes those
of dead processes of this host.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time

from resumable_tf.checkpoint.holder import Holder
from resumable_tf.storage.private_directory import check_above

_PREFIX = "resumable-tf"
_MOST_DIGITS = 10
"""Of a process number; anybody can make a directory with any name here."""
_log = logging.getLogger(__name__)


def scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """Removes what dead processes have left, and makes a directory.

    Raises:
        OSError: If it can't be made.
        StorageError: If everybody could replace it.
    """
    check_above(os.path.join(tempfile.gettempdir(), _PREFIX))
    try:
        _remove_dead(tempfile.gettempdir())
    except OSError as error:  # The space may be enough all the same.
        _log.warning("what a killed process has left is still there: %s", error)
    me = Holder.this_process(now=time.time())
    # No brackets: TensorFlow takes them for a pattern.
    namespace = me.pid_namespace.removeprefix("pid:[").removesuffix("]")
    fields = _PREFIX, me.boot_id, namespace, str(me.pid), me.started, ""
    return tempfile.TemporaryDirectory(prefix=".".join(fields))


def _remove_dead(directory: str) -> None:
    with os.scandir(directory) as found:
        entries = [entry for entry in found if entry.name.startswith(f"{_PREFIX}.")]
    for entry in entries:
        holder = _holder(entry.name)
        if holder is None or not holder.is_dead():
            continue
        try:
            is_own = entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            if is_own and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
                _log.info("removed %s, which a killed process has left", entry.path)
        except FileNotFoundError:  # Another process removes it at this moment.
            continue


def _holder(name: str) -> Holder | None:
    """Returns the process that has made a directory, None if its name is another."""
    parts = name.split(".")
    if len(parts) != 6 or not parts[3].isdecimal() or len(parts[3]) > _MOST_DIGITS:
        return None
    _, boot_id, namespace, pid, started, _ = parts
    return Holder(
        host="",
        pid=int(pid),
        boot_id=boot_id,
        pid_namespace=f"pid:[{namespace}]" if namespace else "",
        started=started,
        since=0.0,
    )
