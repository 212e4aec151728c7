"""What holds for two tiers whatever happened to the run before (hypothesis).

The rule itself is looked at alone, and then together with all that keeps it true: a
run lives on two machines in turn, each with a fast tier, and is killed at any storage
operation, rolled back, moved, and robbed of a fast tier. Only TensorFlow is left out.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.faulty_storage import FaultyStorage
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable_tf.checkpoint import CheckpointInfo, Manifest, tier
from resumable_tf.checkpoint.layout import bundle_name, manifest_name
from resumable_tf.checkpoint.manifest import FileRecord, hex_crc32c
from resumable_tf.checkpoint.retention import KeepAny, KeepNewest
from resumable_tf.checkpoint.tier import Tier
from resumable_tf.checkpoint.tier_choice import DURABLE, FAST, Place, choose
from resumable_tf.checkpoint.tiers import Tiers
from resumable_tf.storage import Storage, open_storage

steps = st.integers(1, 20)
digests = st.sampled_from("abcdef")
durables = st.dictionaries(steps, digests, max_size=5)
fasts = st.sets(steps, max_size=5)
some = st.sets(digests)


@given(fasts, durables, some, some)
def test_the_choice_is_an_order_of_what_may_be_restored(
    fast: set[int], durable: dict[int, str], known: set[str], marked: set[str]
) -> None:
    places = choose(fast=fast, durable=durable, known=known, superseded=marked)
    chosen_fast = {place.step for place in places if place.tier == FAST}
    assert len(places) == len(set(places))
    assert {place.step for place in places if place.tier == DURABLE} == set(durable)
    # All of the fast tier or nothing: a life is left behind as a whole.
    is_known = not durable or durable[max(durable)] in known | marked
    assert chosen_fast == (fast if is_known else set())
    counts = [
        place
        for place in places
        if place.tier == FAST or not chosen_fast or durable[place.step] not in marked
    ]
    assert places[: len(counts)] == counts
    for one, other in itertools.pairwise(counts):
        assert one.step > other.step or (one, other) == (
            *(Place(FAST, one.step), Place(DURABLE, one.step)),
        )


@given(fasts, durables, some)
def test_a_damaged_one_gives_way_to_the_next_of_the_rest(
    fast: set[int], durable: dict[int, str], known: set[str]
) -> None:
    """Taking away a candidate never brings in one of a higher step before it."""
    places = choose(fast=fast, durable=durable, known=known)
    if places and places[0].tier == FAST:
        rest = choose(fast=fast - {places[0].step}, durable=durable, known=known)
        assert rest == places[1:]


class Mortal(FaultyStorage):
    """Fails at one operation, counted over several storages, and at all after it."""

    def __init__(self, storage: Storage, *, fail_at: int, log: list[str]) -> None:
        super().__init__(storage, fail_at=fail_at)
        self.log = log

    def _operate(self, kind: str, name: str) -> bool:
        self.log.append(f"{kind} {name}")
        if len(self.log) > self._fail_at:
            raise OSError("killed")
        return False


@dataclasses.dataclass(frozen=True)
class Life:
    """One start of the training, and how it ends."""

    machine: int
    saves: list[bool]
    """One a step; whether it goes to the durable tier too."""
    die_at: int
    """Storage operation; a large one lets it end well."""
    rolls_back: int
    """How many candidates are passed over; 0 takes the best."""
    loses_fast: bool
    saves_again: bool = False
    """Whether it saves the restored step a second time first."""


lives = st.builds(
    Life,
    machine=st.integers(0, 1),
    saves=st.lists(st.booleans(), max_size=4),
    die_at=st.one_of(st.integers(0, 150), st.just(10**9)),
    rolls_back=st.sampled_from([0, 0, 0, 0, 1, 2]),
    loses_fast=st.sampled_from([False, False, False, True]),
    saves_again=st.booleans(),
)


class Snapshot:
    """Stands for a snapshot; the fake bundle has no files."""


def write_manifest(
    _writer: Any, _: Any, storage: Storage, draft: Manifest, *, check_right: Any
) -> Manifest:
    check_right()
    endings = ("data-00000-of-00001", "index")
    names = [f"{bundle_name(draft.step)}.{ending}" for ending in endings]
    files = tuple(FileRecord(name, 0, hex_crc32c(0)) for name in names)
    draft = dataclasses.replace(draft, files=files)
    storage.create(manifest_name(draft.step), draft.to_bytes())
    return draft


class World:
    """The run, its two machines, and what has been promised about it."""

    numbers = itertools.count()

    def __init__(self) -> None:
        root = f"memory://tiers-{next(self.numbers)}"
        self.durable = open_storage(f"{root}/run")
        self.fast = [open_storage(f"{root}/fast-{number}") for number in range(2)]
        self.clock = itertools.count(1)
        self.began: dict[int, int] = {}
        self.machine_of: dict[int, int] = {}
        # The last save that was reported: anywhere, and in the durable tier.
        self.saved: tuple[int, list[int]] | None = None
        self.saved_durably: list[int] = []

    def live(self, number: int, life: Life) -> None:
        self.began[number] = next(self.clock)
        self.machine_of[number] = life.machine
        if life.loses_fast:
            for name in self.fast[life.machine].list(""):
                self.fast[life.machine].delete(name)
            if self.saved is not None and self.saved[0] == life.machine:
                self.saved = None
        log: list[str] = []
        storages = [
            Mortal(storage, fail_at=life.die_at, log=log)
            for storage in (self.durable, self.fast[life.machine])
        ]
        durable = Tier(storages[0], keep=KeepAny(KeepNewest(2)))
        fast = Tier(storages[1], keep=KeepAny(KeepNewest(2)), keeps_superseded=False)
        try:
            self.train(number, life, Tiers(durable, fast, is_nice=False))
        except OSError as error:
            assert "killed" in str(error)

    def train(self, number: int, life: Life, tiers: Tiers) -> None:
        found = self.restore(life, tiers)
        saves = [
            (found + [number] * count, is_durable)
            for count, is_durable in enumerate(life.saves, 1)
        ]
        if life.saves_again and found:
            saves.insert(0, (found, True))
        for history, is_durable in saves:
            draft = self.draft(history, by=number)
            tiers.write(Snapshot(), draft)
            tiers.note_newer()
            self.saved = life.machine, history
            if is_durable:
                tiers.copies.start(draft.step)
                tiers.copies.finish()
                tiers.copies.raise_failure()
                self.saved_durably = history
            tiers.tidy(draft.step)
        tiers.end()

    def restore(self, life: Life, tiers: Tiers) -> list[int]:
        if life.rolls_back:
            tiers.take()
        else:
            tiers.begin()
        places = tiers.candidates()
        if not places:
            assert not self.saved_durably
            return []
        place = places[min(life.rolls_back, len(places) - 1)]
        info = tiers.tier(place).catalog.info(place.step)
        tiers.restored(info.step)
        history = list(info.manifest.extra["history"])
        if place == places[0]:
            self.check(life.machine, place, history, by=info.manifest.extra["by"])
            tiers.resume_copy(info)
            tiers.copies.finish()
            tiers.copies.raise_failure()
        else:
            # What was promised before is given up, on purpose.
            self.saved, self.saved_durably = None, []
        return history

    def check(self, machine: int, place: Place, history: list[int], *, by: int) -> None:
        """Compares what would be restored, which life `by` wrote, with the promised."""
        if place.tier == FAST:
            began = self.began[by]
            for other in self.committed():
                is_later = other.time > began
                writer = self.machine_of[other.extra["by"]]
                assert not is_later or writer == machine, "went on elsewhere"
        durable = self.saved_durably
        assert history[: len(durable)] == durable, "a durable save is lost"
        if self.saved is not None and self.saved[0] == machine:
            is_passed = durable[: len(self.saved[1])] != self.saved[1]
            newer = len(durable) and not is_passed
            if newer or self.saved[1][: len(durable)] == durable:
                assert history[: len(self.saved[1])] == self.saved[1], "a save is lost"

    def committed(self) -> list[Manifest]:
        catalog = Tier(self.durable, keep=KeepAny()).catalog
        newest = catalog.steps()[-1:]
        return [catalog.read(step) for step in newest]

    def draft(self, history: list[int], *, by: int) -> Manifest:
        return Manifest(
            step=len(history),
            epoch=None,
            batch=None,
            files=(),
            inventory={},
            optimizers={},
            data=None,
            extra={"history": history, "by": by},
            metrics={},
            versions={},
            topology={"num_replicas": 1},
            config=None,
            time=float(next(self.clock)),
        )


@pytest.fixture(scope="module", autouse=True)
def without_tensorflow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tier.BundleWriter, "write", write_manifest)
        # Manifests alone are written and copied; the files they name are not there.
        patch.setattr(tier, "upload_files", lambda storage, uploads: None)
        patch.setattr(FaultyStorage, "local_path", lambda storage, name: name)
        yield


@settings(max_examples=60)
@given(st.lists(lives, min_size=2, max_size=6))
def test_no_life_loses_what_was_saved_or_takes_what_was_left_behind(
    course: list[Life],
) -> None:
    world = World()
    for number, life in enumerate(course):
        world.live(number, life)
    ending = [Life(machine, [], 10**9, 0, False) for machine in (0, 1)]
    for number, life in enumerate(ending, len(course)):
        world.live(number, life)


@pytest.mark.parametrize("die_at", range(5, 95, 2))
@pytest.mark.parametrize("saves", [[True, True], [True, False]], ids=str)
def test_no_end_of_a_second_save_loses_the_first(
    saves: list[bool], die_at: int
) -> None:
    world = World()
    world.live(0, Life(0, saves, 10**9, 0, False))
    world.live(1, Life(0, [], die_at, 0, False, saves_again=True))
    for number, machine in enumerate((1, 0), 2):
        world.live(number, Life(machine, [], 10**9, 0, False))


def test_these_histories_reach_what_they_are_about() -> None:
    """A check that never sees a case proves nothing about it."""
    world = World()
    world.live(0, Life(0, [False, True, False], 10**9, 0, False))
    world.live(1, Life(1, [True], 10**9, 0, False))
    tiers = [
        Tiers(
            Tier(world.durable, keep=KeepAny()),
            Tier(world.fast[machine], keep=KeepAny()),
        )
        for machine in (0, 1)
    ]
    assert tiers[0].candidates()[0] == Place(DURABLE, 3)
    assert tiers[1].candidates()[0] == Place(FAST, 3)
    info = tiers[0].latest()
    assert isinstance(info, CheckpointInfo)
    with pytest.raises(AssertionError, match="elsewhere"):
        world.check(0, Place(FAST, 3), [0, 0, 0], by=0)
    with pytest.raises(AssertionError, match="durable save is lost"):
        world.check(1, Place(DURABLE, 2), [0, 0], by=0)
