"""A checkpoint is refused by objects it does not belong to, which stay as they are.

For a loop of one's own and for `fit` alike: what is missing, what is left over and what
differs stand side by side in the error, and no live variable is touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import resumable_tf as rtf
from resumable_tf.training.keras.one_fit import forget_completed

keras = tf.keras
layers = keras.layers
X, Y = np.ones((8, 3), np.float32), np.ones((8, 1), np.float32)


class Net(keras.Model):
    """Two layers, named by attributes."""

    def __init__(self, *, units: int = 4, dtype: str = "float32") -> None:
        super().__init__()
        self.first = layers.Dense(units, dtype=dtype, name="first")
        self.second = layers.Dense(1, name="second")

    def call(self, x: Any) -> Any:
        return self.second(tf.cast(self.first(x), tf.float32))


class Renamed(keras.Model):
    """The second layer has another attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Dense(4)
        self.final = layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.final(self.first(x))


class Deeper(Net):
    """One layer more."""

    def __init__(self) -> None:
        super().__init__()
        self.third = layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.third(super().call(x))


def built(model: Any, optimizer: str = "adam") -> Any:
    model(X)
    model.compile(keras.optimizers.get(optimizer), "mse")
    return model


OTHERS: dict[str, tuple[Any, set[str]]] = {
    "another architecture": (lambda: built(Deeper()), {"missing"}),
    "another optimizer": (lambda: built(Net(), "rmsprop"), {"unexpected"}),
    "another optimizer with the same variables": (
        lambda: built(Net(), "adamw"),
        {"changed"},
    ),
    "a renamed layer": (lambda: built(Renamed()), {"missing", "unexpected"}),
    "a changed shape": (lambda: built(Net(units=5)), {"changed"}),
    "a changed dtype": (lambda: built(Net(dtype="float64")), {"changed"}),
}


def by_train_state(model: Any, run_dir: Path) -> None:
    optimizer = model.optimizer
    state = rtf.TrainState(model=model, optimizer=optimizer)
    with rtf.Checkpointer(str(run_dir)) as checkpointer:
        if checkpointer.restore_or_initialize(state) is None:
            checkpointer.save(state)


def by_fit(model: Any, run_dir: Path) -> None:
    forget_completed()
    resume = rtf.ResumeCallback(str(run_dir))
    model.fit(X, Y, batch_size=4, epochs=1, callbacks=[resume], verbose=0)


@pytest.mark.parametrize("restore", [by_train_state, by_fit])
@pytest.mark.parametrize("other", OTHERS)
def test_other_objects_get_an_error_that_lists_all_and_stay_as_they_are(
    restore: Any, other: str, tmp_path: Path
) -> None:
    restore(built(Net()), tmp_path)
    make, kinds = OTHERS[other]
    model = make()
    # Exists already, so that building it is no change.
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables]
    before = [variable.numpy() for variable in variables]
    with pytest.raises(rtf.CheckpointMismatchError) as caught:
        restore(model, tmp_path)
    lists = {
        kind: getattr(caught.value, kind)
        for kind in ("missing", "unexpected", "changed")
    }
    assert kinds <= {kind for kind, found in lists.items() if found}
    for kind in kinds:
        assert str(lists[kind][0]).split(":")[0] in str(caught.value)
    assert "new run directory" in str(caught.value)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_name_alone_changes_nothing(tmp_path: Path) -> None:
    """Keras numbers its names anew in each model; what counts is where a layer is."""
    for name in ("one", "two"):
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(2, name=name), layers.Dense(1)]
        )
        state = rtf.TrainState(model=model)
        with rtf.Checkpointer(str(tmp_path)) as checkpointer:
            found = checkpointer.restore_or_initialize(state)
            checkpointer.save(state)
    assert found is not None
