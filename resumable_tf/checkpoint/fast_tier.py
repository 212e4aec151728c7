"""A second, faster place for checkpoints: a RAM disk or SSD of this machine.

    fast_tier = FastTier("/dev/shm/run", every_steps=50, keep_last=2)
    options = SaveOptions(fast_tier=fast_tier)
    Checkpointer("gs://bucket/run", every_steps=1000, options=options)

The run directory stays the durable tier: it alone holds run.json, metrics and lineage,
and what it has committed decides what the fast tier's checkpoints still count for.
"""

from __future__ import annotations

import dataclasses

from resumable_tf.checkpoint.policy import AnyOf, EverySecs, EverySteps, SavePolicy
from resumable_tf.errors import UsageError
from resumable_tf.storage import PathLike, Storage, storage_of


@dataclasses.dataclass(frozen=True)
class FastTier:
    """Where to save often, when, and how many checkpoints to keep there.

    Every save goes there first; one that is due for the run directory too is copied
    from there, while training and further fast saves go on.

    Attributes:
        directory: A local directory, of this run alone. It may be lost at any time.
        every_steps: Save at each multiple of this; None does not.
        every_secs: Save when so many seconds have passed; None does not.
        keep_last: Newest checkpoints to keep, besides one that is being copied and one
            that waits for it (see `OnImprovement`).
    """

    directory: PathLike | Storage
    every_steps: int | None = None
    every_secs: float | None = None
    keep_last: int = 2

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UsageError: If the directory is not a local one.
            ValueError: If a number is not positive.
        """
        if self.keep_last < 1:
            raise ValueError(f"keep_last must be 1 or more, not {self.keep_last}")
        _ = self.policy
        storage = self.storage
        if storage.local_path("") is None:
            raise UsageError(
                f"the fast tier is {storage.root}, which is no local directory; use a "
                "RAM disk or an SSD, such as /dev/shm/run"
            )

    @property
    def storage(self) -> Storage:
        """The directory as a storage."""
        return storage_of(self.directory)

    @property
    def policy(self) -> SavePolicy:
        """When a save is due there."""
        due: list[SavePolicy] = []
        if self.every_steps is not None:
            due.append(EverySteps(self.every_steps))
        if self.every_secs is not None:
            due.append(EverySecs(self.every_secs))
        return AnyOf(*due)
