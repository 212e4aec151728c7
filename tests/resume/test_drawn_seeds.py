"""Seeds that are drawn when a dataset is made, in programs with several fits."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.fit_runs import (
    Interrupted,
    Result,
    differences,
    fit,
    interrupt_after,
    interrupted_fit,
    wait_for_saves,
)
from helpers.fit_variants import Rows
from helpers.keras_programs import Program, first_batch, fresh, numbers

import resumable_tf as rtf
from resumable_tf.training.keras.one_fit import forget_completed

keras = tf.keras
pytestmark = [
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning"),
]


class Draws(keras.callbacks.Callback):
    """Draws from the global generators wherever a callback may."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0.0

    def draw(self) -> None:
        self.drawn += float(tf.random.normal([])) + float(np.random.normal())

    def on_train_begin(self, logs: Any = None) -> None:
        self.draw()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.draw()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.draw()
        logs["drawn"] = self.drawn

    def on_train_end(self, logs: Any = None) -> None:
        self.draw()


@pytest.fixture(autouse=True)
def _new_process() -> Iterator[None]:
    forget_completed()
    yield
    forget_completed()


def small(data: Any) -> Program:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return Program(model, {"x": data, "epochs": 3})


def rows() -> Any:
    return tf.data.Dataset.from_tensor_slices((numbers(24, 5), numbers(24, 1, seed=9)))


def two_fits(
    run_dir: Path | None,
    *,
    kill: tuple[int, int] | None = None,
    is_early: bool = False,
    begun: list[tuple[int, int]] | None = None,
) -> Result:
    """Trains twice, with a run directory for each; the shuffles have no seed.

    Args:
        run_dir: The run directories' parent; None for plain fits.
        kill: Which fit is interrupted, after how many batches.
        is_early: Whether both datasets are made before the first fit.
        begun: Gets where the second fit began.
    """
    forget_completed()
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    results: list[Result] = []
    made = [small(rows().shuffle(24).batch(4)) for _ in range(2 if is_early else 1)]
    for number in range(2):
        if number == len(made):
            made.append(small(rows().shuffle(24).batch(4)))
        callbacks: list[Any] = []
        if run_dir is not None:
            resume = rtf.ResumeCallback(str(run_dir / str(number)), save_every_steps=1)
            callbacks += [resume]
        callbacks += [Draws()]
        if number and begun is not None:
            callbacks += [first_batch(begun)]
        if kill is not None and kill[0] == number:
            callbacks += [interrupt_after(kill[1])]
        results.append(fit(made[number], callbacks))
    pairs = itertools.chain(*(result.items() for result in results))
    return {f"{place}: {key}": value for place, (key, value) in enumerate(pairs)}


@pytest.mark.parametrize(
    ("kills", "is_early"),
    [
        ([(1, 8)], False),
        pytest.param([(1, 8)], True, marks=pytest.mark.slow),
        pytest.param([(0, 7), (1, 7)], False, marks=pytest.mark.slow),
        pytest.param([(0, 13), (1, 2)], False, marks=pytest.mark.slow),
    ],
)
def test_a_second_fit_goes_on_where_callbacks_draw(
    kills: list[tuple[int, int]], is_early: bool, tmp_path: Path
) -> None:
    expected = two_fits(None, is_early=is_early)
    for kill in kills:
        with pytest.raises(Interrupted):
            two_fits(tmp_path, kill=kill, is_early=is_early)
        wait_for_saves()
    begun: list[tuple[int, int]] = []
    result = two_fits(tmp_path, is_early=is_early, begun=begun)
    assert begun[0] > (0, 0)
    assert not differences(expected, result)


@pytest.mark.parametrize("kills", [[9], [9, 9]])
def test_draws_of_callbacks_at_an_epochs_begin_and_python_data(
    kills: list[int], tmp_path: Path
) -> None:
    """The data's own draws follow those of the callbacks, as in a plain fit."""

    class Noisy(Rows):
        def __getitem__(self, index: int) -> Any:
            x, y = super().__getitem__(index)
            return x + np.random.normal(size=x.shape), y

    def make() -> Program:
        program = small(Noisy())
        program.arguments["shuffle"] = False
        program.callbacks.append(Draws())
        return program

    expected = fit(fresh(make), [])
    result = interrupted_fit(
        "", tmp_path, every=8, kills=kills, program=lambda: fresh(make)
    )
    assert not differences(expected, result)


def trained(run_dir: Path, *, seed: int = 3, draws: int = 0, own: Any = None) -> None:
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    for _ in range(draws):
        tf.random.normal([])
    program = small(rows().shuffle(24, seed=own).batch(4))
    fit(
        program,
        [
            rtf.ResumeCallback(str(run_dir), save_every_steps=1),
            interrupt_after(8),
        ],
    )


@pytest.mark.parametrize(
    ("start", "now", "remedy"),
    [
        ({}, {"draws": 1}, r"seed=\d+"),
        ({}, {"own": 5}, r"seed=\d+"),
        ({"own": 5}, {"own": 6}, "seed=5"),
        ({"own": 5}, {"own": 5, "seed": 4}, r"set_seed\(3\)"),
    ],
)
def test_other_seeds_are_named_with_both_values(
    start: dict[str, Any], now: dict[str, Any], remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        trained(tmp_path, **start)
    wait_for_saves()
    with pytest.raises(rtf.DataMismatchError) as caught:
        trained(tmp_path, **now)
    lines = str(caught.value).splitlines()
    assert "has other seeds" in lines[0]
    assert lines[1] == "  shuffle() with a buffer of 24:"
    assert lines[2].startswith("    checkpoint: seed ")
    assert lines[3].startswith("    now:        seed ")
    assert lines[2].split(": ")[1] != lines[3].split(": ")[1]
    found = re.search(remedy, lines[4])
    assert found, lines[4]


def test_the_drawn_seed_that_the_error_names_goes_on_with_the_run(
    tmp_path: Path,
) -> None:
    with pytest.raises(Interrupted):
        trained(tmp_path)
    wait_for_saves()
    with pytest.raises(rtf.DataMismatchError) as caught:
        trained(tmp_path, draws=1)
    seed = int(str(caught.value).split("To go on with it: seed=")[1].split()[0])
    with pytest.raises(Interrupted):
        trained(tmp_path, draws=1, own=seed)


def test_other_seeds_and_another_buffer_are_another_pipeline(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        trained(tmp_path)
    wait_for_saves()
    program = fresh(lambda: small(rows().shuffle(20).batch(4)))
    with pytest.raises(rtf.DataMismatchError, match="the dataset is not the one"):
        fit(program, [rtf.ResumeCallback(str(tmp_path))])
