"""Validation data with a state of its own: the `val_` values of later epochs are equal.

Guards against callbacks that steer by `val_` values which differ after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.fit_runs import Interrupted, differences, fit, interrupt_after
from helpers.keras_programs import IS_KERAS_3, Program, fresh, numbers

import resumable_tf as rtf
from resumable_tf.errors import StateError

keras = tf.keras
# Of Keras' own ReduceLROnPlateau.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation"),
    pytest.mark.filterwarnings("ignore:Learning rate reduction is conditioned"),
]
Base = keras.utils.PyDataset if IS_KERAS_3 else keras.utils.Sequence


class Shuffled(Base):  # type: ignore[misc, valid-type]
    """Shuffles by its own generator, and gives other rows each time."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = numbers(12, 5, seed=3)
        self.order = np.arange(12)
        self.random = np.random.default_rng(8)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        rows = self.rows[self.order[index * 3 : index * 3 + 3]]
        return rows[:, :4], rows[:, 4:]

    def on_epoch_end(self) -> None:
        self.order = self.random.permutation(12)


class Counting(Shuffled):
    """Has a state in `__getitem__`, and draws from NumPy's global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        self.count += 1
        return x + self.count * 0.1, y

    def on_epoch_end(self) -> None:
        self.order = np.random.permutation(12)


def program(kind: type[Shuffled], **more: Any) -> Program:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    data = tf.data.Dataset.from_tensor_slices((numbers(24, 4), numbers(24, 1)))
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=0, min_delta=0.02)
    arguments = {
        "x": data.batch(4),
        "epochs": 4,
        "validation_data": kind(),
        **({"shuffle": False} if IS_KERAS_3 else {}),
        **more,
    }
    return Program(model, arguments, [plateau])


VARIANTS: dict[str, dict[str, Any]] = {
    "always": {},
    "every second epoch": {"validation_freq": 2},
    "a part of it": {"validation_steps": 2},
}


@pytest.mark.parametrize("kills", [(8,), (14,), (6, 7)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", [Shuffled, Counting])
def test_it_goes_on_where_it_was(
    tmp_path: Path,
    kind: type[Shuffled],
    variant: str,
    kills: tuple[int, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def make() -> Program:
        return program(kind, **VARIANTS[variant])

    expected = fit(fresh(make), [])
    assert len({*expected["h_val_loss"]}) > 1
    for kill in kills:
        resume = rtf.ResumeCallback(str(tmp_path), save_every_steps=4)
        with pytest.raises(Interrupted):
            fit(fresh(make), [resume, interrupt_after(kill)])
    made = fresh(make)
    resume = rtf.ResumeCallback(str(tmp_path), save_every_steps=4)
    capsys.readouterr()
    found = fit(made, [resume])
    assert "resumed from step" in capsys.readouterr().out
    assert not differences(expected, found)


def test_a_generator_is_refused_before_the_first_batch(tmp_path: Path) -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield numbers(3, 4), numbers(3, 1)

    made = fresh(lambda: program(Shuffled, validation_data=endless()))
    made.arguments["validation_steps"] = 2
    with pytest.raises(StateError, match="validation_data is a generator"):
        fit(made, [rtf.ResumeCallback(str(tmp_path))])
