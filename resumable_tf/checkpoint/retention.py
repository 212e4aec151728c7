"""What to keep, by more than age.

    keep = KeepAny(KeepNewest(3), KeepBest(2, metric="bleu"), KeepMultiples(10_000))
    keep.to_delete(candidates)      # steps, oldest first

Each policy says what it wants to keep; what none of them wants is deleted. Policies are
pure: they know nothing but the committed checkpoints that they are asked about. The
newest one is never deleted, so neither is the only one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A committed checkpoint, as far as its retention matters.

    Attributes:
        step: Completed steps.
        time: Of its save, in seconds since 1970.
        metrics: The numbers in its manifest.
    """

    step: int
    time: float = 0.0
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


class KeepPolicy(Protocol):
    """Decides what to keep."""

    def to_keep(self, candidates: Sequence[Candidate]) -> set[int]:
        """Returns the steps that this policy wants to keep."""


@dataclasses.dataclass(frozen=True)
class KeepNewest:
    """Keeps the newest `count`."""

    count: int

    def __post_init__(self) -> None:
        """Checks the number.

        Raises:
            ValueError: If it is not positive.
        """
        _check_positive("count", self.count)

    def to_keep(self, candidates: Sequence[Candidate]) -> set[int]:
        """Returns the newest steps."""
        return set(sorted({candidate.step for candidate in candidates})[-self.count :])


@dataclasses.dataclass(frozen=True)
class KeepMultiples:
    """Keeps each multiple of `every_steps` for ever."""

    every_steps: int

    def __post_init__(self) -> None:
        """Checks the period.

        Raises:
            ValueError: If it is not positive.
        """
        _check_positive("every_steps", self.every_steps)

    def to_keep(self, candidates: Sequence[Candidate]) -> set[int]:
        """Returns the multiples."""
        steps = {candidate.step for candidate in candidates}
        return {step for step in steps if step % self.every_steps == 0}


@dataclasses.dataclass(frozen=True)
class KeepPinned:
    """Keeps certain steps."""

    steps: Collection[int]

    def to_keep(self, candidates: Sequence[Candidate]) -> set[int]:
        """Returns those of the steps that are there."""
        return {candidate.step for candidate in candidates}.intersection(self.steps)


@dataclasses.dataclass(frozen=True)
class KeepOnePer:
    """Keeps the first checkpoint of each period, such as one an hour.

    Periods begin at 1970 and not at the first checkpoint, so that deleting one changes
    nothing for the others.
    """

    secs: float

    def __post_init__(self) -> None:
        """Checks the period.

        Raises:
            ValueError: If it is not positive.
        """
        _check_positive("secs", self.secs)

    def to_keep(self, candidates: Sequence[Candidate]) -> set[int]:
        """Returns the first step of each period."""
        first: dict[int, int] = {}
        for candidate in candidates:
            period = math.floor(candidate.time / self.secs)
            first[period] = min(candidate.step, first.get(period, candidate.step))
        return set(first.values())


@dataclasses.dataclass(frozen=True)
class KeepBest:
    """Keeps the `count` best by a metric; of equals, the newer.

    A checkpoint without that metric is never among the best.

    Attributes:
        count: How many.
        metric: As given to `save(metrics=...)`.
        is_higher_better: False for a loss.
    """

    count: int
    metric: str
    is_higher_better: bool = True

    def __post_init__(self) -> None:
        """Checks the number.

        Raises:
            ValueError: If it is not positive.
        """
        _check_positive("count", self.count)

    def to_keep(self, candidates: Sequence[Candidate]) -> set[int]:
        """Returns the best steps."""
        sign = 1.0 if self.is_higher_better else -1.0
        ranked = sorted(
            (sign * candidate.metrics[self.metric], candidate.step)
            for candidate in candidates
            if self.metric in candidate.metrics
        )
        return {step for _, step in ranked[-self.count :]}


class KeepAny:
    """Keeps what at least one of several policies wants; everything without any."""

    def __init__(self, *policies: KeepPolicy) -> None:
        """Takes the policies."""
        self.policies = policies

    @property
    def needs_manifests(self) -> bool:
        """Whether a policy looks at more than steps."""
        return not all(isinstance(policy, _BY_STEP) for policy in self.policies)

    def to_keep(self, candidates: Sequence[Candidate]) -> set[int]:
        """Returns what a policy wants, and always the newest."""
        if not self.policies:
            return {candidate.step for candidate in candidates}
        kept = KeepNewest(1).to_keep(candidates)
        return kept.union(*(policy.to_keep(candidates) for policy in self.policies))

    def to_delete(self, candidates: Sequence[Candidate]) -> list[int]:
        """Returns which checkpoints to delete, oldest first.

        Args:
            candidates: Committed checkpoints only: what is not committed must not make
                a good checkpoint count as old.
        """
        steps = {candidate.step for candidate in candidates}
        return sorted(steps - self.to_keep(candidates))


_BY_STEP = (KeepNewest, KeepMultiples, KeepPinned)


def keep_all_of(policies: Sequence[KeepPolicy], keep_last: int | None) -> KeepAny:
    """Returns the policy of a checkpointer.

    Args:
        policies: What to keep.
        keep_last: How many of the newest besides; None adds none.

    Raises:
        ValueError: If `keep_last` is not positive.
    """
    if keep_last is None:
        return KeepAny(*policies)
    if keep_last < 1:
        raise ValueError(f"keep_last must be 1 or more, not {keep_last}")
    return KeepAny(KeepNewest(keep_last), *policies)


def _check_positive(name: str, value: float) -> None:
    """Refuses a number that would keep nothing.

    Raises:
        ValueError: If it is not positive.
    """
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value}")
