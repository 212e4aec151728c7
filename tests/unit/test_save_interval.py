"""The automatic interval, in simulated hours of training with noisy costs.

Guards against saving too often for its share, too rarely for the risk, and against
taking an evaluation for the cost of a save.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from resumable_tf.checkpoint.interval import AutoInterval
from resumable_tf.checkpoint.meter import CostMeter
from resumable_tf.checkpoint.policy import LastSave, Moment

HOUR = 3600.0


@dataclasses.dataclass
class Training:
    """A training whose steps take time by chance; nothing is measured but by the meter.

    Attributes:
        step_secs: What a call of the training step takes, without a save.
        blocked_secs: How long a snapshot takes.
        write_secs: How long a save is in flight after that.
        slowdown: By which share steps are slower meanwhile.
        noise: Largest relative deviation of each of them.
        hook_secs: What comes on top of a step, such as an evaluation.
    """

    step_secs: float
    blocked_secs: float
    write_secs: float
    slowdown: float
    noise: float = 0.0
    seed: int = 1
    hook_secs: Callable[[int], float] = lambda step: 0.0

    def run(self, policy: AutoInterval, *, secs: float) -> None:
        """Trains for so long; leaves the saves' times and true costs."""
        chance = random.Random(self.seed)

        def noisy(mean: float) -> float:
            return mean * chance.uniform(1 - self.noise, 1 + self.noise)

        meter, last = CostMeter(0.0), LastSave(step=0, secs=0.0)
        now, step, flight_end = 0.0, 0, None
        self.saved_at: list[float] = []
        self.costs: list[float] = []
        while now < secs:
            work = noisy(self.step_secs)
            if flight_end is not None:
                extra = min(work, (flight_end - now) / (1 + self.slowdown))
                extra *= self.slowdown
                self.costs[-1] += extra
                work += extra
            now += work + self.hook_secs(step)
            step += 1
            if flight_end is not None and flight_end <= now:
                meter.end_save(flight_end)
                flight_end = None
            meter.after_step(step, now)
            is_saving = flight_end is not None
            moment = Moment(step=step, secs=now, costs=meter.costs, is_saving=is_saving)
            if policy.should_save(moment, last=last):
                self.saved_at.append(now)
                blocked = noisy(self.blocked_secs)
                self.costs.append(blocked)
                meter.begin_save(now)
                now += blocked
                meter.after_snapshot(now)
                flight_end = now + noisy(self.write_secs)
                last = LastSave(step=step, secs=now)
        self.end_secs, self.measured = now, meter.costs


@settings(max_examples=12)
@given(
    st.floats(0.5, 20.0),
    st.floats(0.01, 3.0),
    st.floats(0.1, 40.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 0.5),
    st.integers(0, 1000),
)
def test_saving_never_takes_more_than_its_share(
    step_secs: float,
    blocked_secs: float,
    write_secs: float,
    slowdown: float,
    noise: float,
    seed: int,
) -> None:
    training = Training(step_secs, blocked_secs, write_secs, slowdown, noise, seed)
    training.run(AutoInterval(HOUR / 60, max_overhead=0.01), secs=6 * HOUR)
    assert training.saved_at
    # The last save may be dearer than thought. Besides, the slowdown is the difference
    # of noisy steps, of which few are long ones: what a save is measured to cost is off
    # by the noise of the steps that it spans, half of the time to the cheap side.
    spread = noise * step_secs * math.sqrt(2 + write_secs / step_secs)
    num_saves = len(training.costs)
    allowed = 0.01 * training.end_secs + max(training.costs) + spread * num_saves
    assert sum(training.costs) <= allowed


@settings(max_examples=15)
@given(st.floats(0.2, 0.5), st.floats(20.0, 100.0), st.integers(0, 1000))
def test_the_interval_is_near_the_best_one_where_the_share_allows_it(
    blocked_secs: float, hours_to_failure: float, seed: int
) -> None:
    training = Training(5.0, blocked_secs, 1.0, 0.0, 0.02, seed)
    policy = AutoInterval(hours_to_failure * HOUR)
    best = policy.interval_secs(blocked_secs)
    assert best > 99 * blocked_secs * 1.5  # It is not the share that decides.
    training.run(policy, secs=25 * best)
    first, *later = training.saved_at
    assert first <= 30 + 2 * 5.0
    gaps = [after - before for before, after in itertools.pairwise(later)]
    assert len(gaps) > 15
    # It ends with a step, of 5 s, and the cost is measured against noisy steps: 0.1 s
    # of 0.2 s, under a square root.
    mean = sum(gaps) / len(gaps)
    assert 0.9 * best <= mean <= 1.15 * best + 5.0


def test_an_evaluation_during_a_save_is_not_its_cost() -> None:
    def evaluation(step: int) -> float:
        return 300.0 if step % 40 == 0 else 0.0

    training = Training(10.0, 0.5, 12.0, 0.2, hook_secs=evaluation)
    training.run(AutoInterval(2 * HOUR), secs=48 * HOUR)
    assert training.measured.save_secs is not None
    # It is in flight for 12 s, and costs at most that.
    assert training.measured.save_secs <= 0.5 + 12.0
    quiet = Training(10.0, 0.5, 12.0, 0.2)
    quiet.run(AutoInterval(2 * HOUR), secs=48 * HOUR)
    assert quiet.measured.save_secs is not None
    assert abs(quiet.measured.save_secs - (0.5 + 2.0)) < 0.5


def test_saves_that_get_dearer_become_rarer() -> None:
    policy = AutoInterval(HOUR)
    cheap = Training(5.0, 0.2, 1.0, 0.0)
    dear = Training(5.0, 5.0, 1.0, 0.0)
    cheap.run(policy, secs=12 * HOUR)
    dear.run(policy, secs=12 * HOUR)
    assert len(cheap.saved_at) > 3 * len(dear.saved_at) > 3


def test_nothing_is_due_while_a_save_is_in_flight_or_without_a_step() -> None:
    policy = AutoInterval(HOUR)
    due = Moment(step=5, secs=31.0)
    assert policy.should_save(due, last=LastSave(step=4))
    for change in ({"is_saving": True}, {"step": 4}, {"secs": 29.0}):
        moment = dataclasses.replace(due, **change)
        assert not policy.should_save(moment, last=LastSave(step=4))
    assert policy.next_save_step(due) is None


def test_a_save_that_is_over_before_training_goes_on_costs_what_it_blocked() -> None:
    """As without `asynchronous`, and with a very fast storage."""
    meter = CostMeter(0.0)
    for step in range(1, 5):
        meter.after_step(step, step * 10.0)
    meter.begin_save(40.0)
    meter.end_save(47.0)
    meter.after_snapshot(47.0)
    meter.after_step(5, 57.0)
    assert (meter.costs.spent_secs, meter.costs.save_secs) == (7.0, 7.0)


def test_calls_of_several_steps_and_repeated_calls_measure_the_same() -> None:
    meter = CostMeter(0.0)
    meter.after_step(0, 0.0)
    for step in range(10, 60, 10):
        meter.after_step(step, step * 1.0)
        meter.after_step(step, step * 1.0 + 0.001)
    meter.begin_save(50.0)
    meter.after_snapshot(52.0)
    meter.end_save(100.0)
    meter.after_step(60, 65.0)  # 13 s for what usually takes 10 s.
    assert meter.costs.spent_secs == 5.0
