"""Saved against live, before any live object is touched.

check_kind(manifest, state.inventory())
check_inventory(manifest, state.inventory())
check_optimizers(manifest, state.optimizers())
check_data(manifest, state.describe_data())
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from resumable_tf.checkpoint.lineage import MayChange
from resumable_tf.checkpoint.manifest import Manifest, TensorSpec, normalize_json
from resumable_tf.checkpoint.other_seeds import other_seeds
from resumable_tf.checkpoint.run_config import CHANGE_ADVICE
from resumable_tf.errors import CheckpointMismatchError, DataMismatchError
from resumable_tf.state.inventory import Entry
from resumable_tf.state.replicas import is_component_key

_SHOWN = 10
_SIZE, _ORIGIN = "global_batch_size", "origin"
_FLAGS = {_SIZE: "--batch-size", "seed": "--seed"}
_OF_FIT = "fit/"
_DIGEST = re.compile(r"[0-9a-f]{16,}")


def check_kind(manifest: Manifest, entries: Iterable[Entry]) -> None:
    """Tells a checkpoint of `fit` from one of a training loop.

    Args:
        manifest: The checkpoint.
        entries: The live objects' inventory.

    Raises:
        CheckpointMismatchError: If one is of the one kind, and one of the other.
    """
    kinds = ["a training loop (Checkpointer)", "model.fit (ResumeCallback)"]
    saved = any(key.startswith(_OF_FIT) for key in manifest.inventory)
    now = any(entry.key.startswith(_OF_FIT) for entry in entries)
    if saved != now:
        raise CheckpointMismatchError(
            f"cannot restore step {manifest.step}: it was saved by {kinds[saved]}, not "
            f"by {kinds[now]}. Give each of them a run directory of its own"
        )


def check_inventory(manifest: Manifest, entries: Iterable[Entry]) -> None:
    """Compares keys, shapes and dtypes of a checkpoint with the live objects.

    The components of single replicas are left out: another number of replicas has
    others, and can be restored.

    Args:
        manifest: The checkpoint.
        entries: The live objects' inventory.

    Raises:
        CheckpointMismatchError: If anything is missing, left over or different.
    """
    live = {entry.key: entry for entry in entries if not is_component_key(entry.key)}
    saved = {
        key: spec
        for key, spec in manifest.inventory.items()
        if not is_component_key(key)
    }
    missing = [key for key in live if key not in saved]
    unexpected = [key for key in saved if key not in live]
    changed = [
        f"{key}: checkpoint {_text(saved[key])}, now {_live_text(entry)}"
        for key, entry in live.items()
        if key in saved and not _fits(saved[key], entry)
    ]
    if not (missing or unexpected or changed):
        return
    lines = [
        f"cannot restore step {manifest.step}: the checkpoint is of other objects.",
        *_section("only now (not in the checkpoint)", missing, _owners(live)),
        *_section(
            "only in the checkpoint",
            unexpected,
            {key: f"{key}  {_text(saved[key])}" for key in unexpected},
        ),
        *_section("different", changed, {}),
        "Build the model and optimizer as they were, or start a new run directory.",
    ]
    raise CheckpointMismatchError(
        "\n".join(lines), missing=missing, unexpected=unexpected, changed=changed
    )


def check_optimizers(manifest: Manifest, optimizers: Mapping[str, str]) -> None:
    """Compares the classes of a checkpoint's optimizers with those of this start.

    Args:
        manifest: The checkpoint.
        optimizers: Class of each live optimizer, by its path.

    Raises:
        CheckpointMismatchError: If one is of another class.
    """
    saved = manifest.optimizers
    changed = [
        f"{path}: checkpoint {saved.get(path)}, now {optimizers.get(path)}"
        for path in sorted({*saved, *optimizers})
        if saved.get(path) != optimizers.get(path)
    ]
    if changed:
        lines = [
            f"cannot restore step {manifest.step}: the optimizer is another one.",
            *_section("different", changed, {}),
            "Use the optimizer that it was, or start a new run directory.",
        ]
        raise CheckpointMismatchError("\n".join(lines), changed=changed)


def check_data(
    manifest: Manifest,
    described: Mapping[str, Any] | None,
    *,
    may_change: MayChange | None = None,
) -> None:
    """Compares the data of a checkpoint with the data of this start.

    Args:
        manifest: The checkpoint.
        described: What the live data says about itself, None without data.
        may_change: For data that can go on with another batch size: tells whether
            it may. None for data that can't.

    Raises:
        DataMismatchError: If they are not the same.
    """
    now = None if described is None else normalize_json(described, what="describe()")
    if manifest.data == now:
        return
    saved, live = dict(manifest.data or {}), dict(now or {})
    keys = [*live, *(key for key in saved if key not in live)]
    differing = [key for key in keys if saved.get(key) != live.get(key)]
    if may_change is not None and saved and live:
        differing = [key for key in differing if key != _ORIGIN]
        sizes = [int(values[_SIZE]) for values in (saved, live)]
        may = differing == [_SIZE] and may_change(manifest.step, sizes[0], sizes[1])
        if may or not differing:
            return
    if differing == ["pipeline"]:
        lines = other_seeds(saved.get("pipeline", ()), live.get("pipeline", ()))
        if lines:
            first = f"cannot resume from step {manifest.step}: the data has other seeds"
            message = "\n".join([f"{first} than it was saved with.", *lines])
            message += ", or start a new run directory."
            raise DataMismatchError(message, saved=saved, now=live)
    message = (
        f"cannot resume from step {manifest.step}: "
        "the dataset is not the one it was saved with.\n"
        f"  checkpoint: {_describe(saved, live, keys)}\n"
        f"  now:        {_describe(live, saved, keys)}\n"
        f"{_data_advice(saved, differing)}, or start a new run directory."
    )
    if may_change is not None and differing == [_SIZE]:
        message += f"\n{CHANGE_ADVICE}"
    raise DataMismatchError(message, saved=saved, now=live)


def _fits(saved: TensorSpec, entry: Entry) -> bool:
    same_shape = entry.shape is None or saved.shape == entry.shape
    return same_shape and saved.dtype == entry.dtype


def _text(spec: TensorSpec) -> str:
    return f"{spec.dtype}{list(spec.shape)}"


def _live_text(entry: Entry) -> str:
    return entry.dtype + ("" if entry.shape is None else str(list(entry.shape)))


def _owners(live: Mapping[str, Entry]) -> dict[str, str]:
    return {
        key: f"{key}  {_live_text(entry)}  ({entry.owner})"
        for key, entry in live.items()
    }


def _section(title: str, lines: list[str], texts: Mapping[str, str]) -> list[str]:
    if not lines:
        return []
    shown = [f"    {texts.get(line, line)}" for line in lines[:_SHOWN]]
    if len(lines) > _SHOWN:
        shown.append(f"    ... and {len(lines) - _SHOWN} more")
    return [f"  {title}: {len(lines)}", *shown]


def _describe(
    values: Mapping[str, Any], other: Mapping[str, Any], keys: Iterable[str]
) -> str:
    if not values:
        return "no dataset"
    return ", ".join(
        f"{key} {_short(values[key], other.get(key))}" for key in keys if key in values
    )


def _short(value: Any, other: Any) -> str:
    """Returns a value as text; digests are cut unless they then look the same."""
    text = str(value)
    if not _DIGEST.fullmatch(text):
        return text
    cut = 6
    return (
        text if text != other and text[:cut] == str(other)[:cut] else f"{text[:6]}..."
    )


def _data_advice(saved: Mapping[str, Any], differing: Iterable[str]) -> str:
    if not saved:
        return "Leave the dataset out of the training state"
    flags = [f"{_FLAGS[key]} {saved[key]}" for key in differing if key in _FLAGS]
    others = [key for key in differing if key not in _FLAGS]
    if others and flags:
        return f"Use the records that it was saved with, and {' '.join(flags)}"
    if others:
        return "Use the records that it was saved with"
    return f"Use {' '.join(flags)}"
