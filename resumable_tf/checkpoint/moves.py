"""Checkpoints on their way out of the way, as a whole and in several moves.

    move_into(storage, "checkpoints/quarantine/ckpt-2000.1", names)
    moved = finish_moves(storage, names, committed)

The manifest goes first: where it is, the rest belongs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from resumable_tf.checkpoint.layout import (
    CHECKPOINTS,
    aside_folder,
    parse_aside,
    step_of_data,
)
from resumable_tf.storage import Storage


def move_into(storage: Storage, folder: str, names: Iterable[str]) -> None:
    """Moves files of a checkpoint into a folder.

    Args:
        storage: The run directory.
        folder: Of `aside_folder`.
        names: The files, in this order.
    """
    for name in names:
        storage.move(name, folder + name[len(CHECKPOINTS) :])


def finish_moves(
    storage: Storage, names: Collection[str], committed: Collection[int | None]
) -> set[str]:
    """Moves on what a killed process has left behind.

    Args:
        storage: The run directory.
        names: All files of its checkpoints.
        committed: The steps whose files are where they belong.

    Returns:
        The names of what was moved.
    """
    moved: set[str] = set()
    for manifest in names:
        parsed = parse_aside(manifest)
        if parsed is None or parsed[1] in committed:
            continue
        folder = aside_folder(*parsed)
        left = [
            name
            for name in names
            if step_of_data(name) == parsed[1]
            and name not in moved
            and folder + name[len(CHECKPOINTS) :] not in names
        ]
        move_into(storage, folder, left)
        moved.update(left)
    return moved
