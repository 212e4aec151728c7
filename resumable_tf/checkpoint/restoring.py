"""Back into the live objects: the newest checkpoint that verifies.

    info = restore_newest(tiers, state, quarantines=True, may_change=may_change)
    info = restore_step(tiers, state, step=41000, may_change=may_change)

Everything is compared before any live object is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from resumable_tf.checkpoint.bundle import open_bundle
from resumable_tf.checkpoint.catalog_files import is_forbidden
from resumable_tf.checkpoint.comparison import (
    check_data,
    check_inventory,
    check_kind,
    check_optimizers,
)
from resumable_tf.checkpoint.environment import changes, environment
from resumable_tf.checkpoint.layout import CHECKPOINTS, QUARANTINE, SUPERSEDED
from resumable_tf.checkpoint.lineage import MayChange
from resumable_tf.checkpoint.manifest import CheckpointInfo
from resumable_tf.checkpoint.ownership import Ownership
from resumable_tf.checkpoint.reading import reading
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.checkpoint.tier_choice import Place
from resumable_tf.checkpoint.tiers import Tiers
from resumable_tf.errors import CheckpointCorruptError, NoCheckpointError
from resumable_tf.state import TrainState
from resumable_tf.storage import Storage

_log = logging.getLogger(__name__)


def restore_newest(
    tiers: Tiers,
    state: TrainState,
    *,
    quarantines: bool,
    may_change: MayChange,
) -> CheckpointInfo | None:
    """Restores the newest checkpoint whose files verify.

    The reason for leaving out a damaged one is in the log.

    Args:
        tiers: The run's checkpoints.
        state: The live objects.
        quarantines: Whether to move damaged checkpoints out of the way.
        may_change: Tells whether the batch size may be another than the saved one.

    Returns:
        What was restored, None if the run has no checkpoint.

    Raises:
        CheckpointCorruptError: If there were checkpoints and none verifies.
        CheckpointMismatchError: If the live objects are others than the saved ones.
        DataMismatchError: If the data is not the saved one.
        FastTierMismatchError: If the fast tier is another run's.
    """
    damaged: dict[Place, CheckpointCorruptError] = {}
    left_in: set[Storage] = set()
    # What is damaged may change which of the others count.
    while candidates := tiers.candidates(without=set(damaged)):
        place = candidates[0]
        tier = tiers.tier(place)
        try:
            return _restore(tier, state, place.step, may_change)
        except CheckpointCorruptError as error:
            if quarantines and not is_forbidden(error):
                where = f"moved to {tier.catalog.set_aside(place.step, QUARANTINE)}"
            else:
                where = "left in place"
                left_in.add(tier.storage)
            _log.warning(
                "checkpoint %d is damaged (%s) in %s; %s, trying the one before",
                *(place.step, error, tier.storage.root, where),
            )
            damaged[place] = error
    _refuse_damaged(tiers, left_in=left_in, why=next(iter(damaged.values()), None))
    superseded = tiers.durable.storage.list(SUPERSEDED)
    if superseded:
        _log.warning(
            "no checkpoint is left but those in %s, which a save has moved out of its "
            "way; they are not restored",
            tiers.durable.storage.locate(SUPERSEDED),
        )
    return None


def _refuse_damaged(
    tiers: Tiers, *, left_in: Collection[Storage], why: CheckpointCorruptError | None
) -> None:
    """Keeps a run whose checkpoints are all damaged from beginning anew.

    Args:
        tiers: The run's checkpoints.
        left_in: Where damaged ones were left in place.
        why: What is wrong with the newest one, if this start has seen it.

    Raises:
        CheckpointCorruptError: If there are damaged ones, now or from earlier starts.
    """
    used, moved_in = [tiers.durable.storage], []
    if tiers.durable.catalog.quarantined():
        moved_in.append(tiers.durable.storage)
    if tiers.fast is not None:
        used.append(tiers.fast.storage)
        if Ownership(tiers.durable, tiers.fast).quarantined():
            moved_in.append(tiers.fast.storage)
    damaged = []
    if left_in:
        damaged.append(f"left in place in {_folders(left_in, CHECKPOINTS)}")
    if moved_in:
        damaged.append(f"moved to {_folders(moved_in, QUARANTINE)}")
    if damaged:
        raise CheckpointCorruptError(
            f"no checkpoint in {_folders(used, CHECKPOINTS)} can be read; damaged ones "
            f"are {', others '.join(damaged)}. "
            + (f"The newest: {why}. " if why is not None else "")
            + "Mend them, or start a new run directory"
        )


def _folders(storages: Collection[Storage], name: str) -> str:
    return " and ".join(sorted(storage.locate(name) for storage in storages))


def restore_existing(
    tiers: Tiers, state: TrainState, *, step: int | None, may_change: MayChange
) -> CheckpointInfo:
    """Restores a checkpoint that must be there; moves nothing.

    Args:
        tiers: The run's checkpoints.
        state: The live objects.
        step: Which one; None takes the newest that verifies.
        may_change: Tells whether the batch size may be another than the saved one.

    Returns:
        What was restored.

    Raises:
        NoCheckpointError: If it is not there.
        CheckpointCorruptError: If it does not verify; it stays where it is.
        CheckpointMismatchError: If the live objects are others than the saved ones.
        DataMismatchError: If the data is not the saved one.
    """
    if step is not None:
        return restore_step(tiers, state, step=step, may_change=may_change)
    found = restore_newest(tiers, state, quarantines=False, may_change=may_change)
    if found is None:
        raise NoCheckpointError(f"{tiers.durable.storage.root} has no checkpoint")
    return found


def restore_step(
    tiers: Tiers,
    state: TrainState,
    *,
    step: int,
    may_change: MayChange,
) -> CheckpointInfo:
    """Restores one certain checkpoint, from whichever tier has it undamaged.

    Args:
        tiers: The run's checkpoints.
        state: The live objects.
        step: Which one.
        may_change: Tells whether the batch size may be another than the saved one.

    Returns:
        What was restored.

    Raises:
        NoCheckpointError: If there is no such checkpoint.
        CheckpointCorruptError: If it does not verify; it stays where it is.
        CheckpointMismatchError: If the live objects are others than the saved ones.
        DataMismatchError: If the data is not the saved one.
        FastTierMismatchError: If the fast tier is another run's.
    """
    places = [place for place in tiers.candidates() if place.step == step]
    for place in places[:-1]:
        tier = tiers.tier(place)
        try:
            return _restore(tier, state, step, may_change)
        except CheckpointCorruptError as error:
            _log.warning(
                "checkpoint %d is damaged (%s) in %s; trying the durable one",
                *(step, error, tier.storage.root),
            )
    if not places:
        tiers.durable.catalog.require(step)
    return _restore(tiers.tier(places[-1]), state, step, may_change)


def _restore(
    tier: Tier, state: TrainState, step: int, may_change: MayChange
) -> CheckpointInfo:
    """Restores one checkpoint, which may be damaged or gone."""
    can_change = state.can_continue_data
    with reading(tier.catalog, step):
        info = tier.catalog.info(step)
        with open_bundle(tier.storage, info.manifest) as path:
            check_kind(info.manifest, state.inventory())
            check_data(
                info.manifest,
                state.describe_data(),
                may_change=may_change if can_change else None,
            )
            check_inventory(info.manifest, state.inventory())
            check_optimizers(info.manifest, state.optimizers())
            specs = info.manifest.inventory.items()
            state.apply(path, {key: (spec.shape, spec.dtype) for key, spec in specs})
    differing = changes(info.manifest.versions, environment())
    if differing:
        _log.warning(
            "restored exactly, but the steps from here may round differently than "
            "before: %s",
            "; ".join(differing),
        )
    state.step = step
    state.extra = dict(info.manifest.extra)
    state.continue_data(info.manifest.data)
    return info
