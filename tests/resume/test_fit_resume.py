"""`model.fit` with ResumeCallback equals plain `model.fit`, bit for bit.

Compared are all variables (optimizers, random seeds and metrics included), the whole
history and what callbacks decided, after interruptions at many batches.
"""

from __future__ import annotations

import contextlib
import csv
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers import fit_variants
from helpers.fit_runs import (
    Interrupted,
    build,
    differences,
    fit,
    interrupt_after,
    interrupted_fit,
    plain_fit,
    resumed_fit,
    wait_for_saves,
)
from helpers.fit_variants import VARIANTS
from helpers.keras_programs import (
    IS_KERAS_3,
    PROGRAMS,
    first_batch,
    labels,
    numbers,
    result_of,
)

import resumable_tf as rtf

keras = tf.keras
# Keras says that it does not shuffle datasets; tf_keras that a callback took long.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*ran out of data:UserWarning"),
    pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
SLOW = {True: pytest.mark.slow, False: pytest.mark.proof}
HARD = {"repeated"}
COMMON = {"numpy_arrays", "own_callback", "late_model"}
VALIDATED = sorted(name for name in VARIANTS if name.startswith("validation"))[::-1]


def named(names: Any, *, slow: Any = (), proof: Any = ()) -> list[Any]:
    def marks(name: str) -> list[pytest.MarkDecorator]:
        is_slow = [pytest.mark.slow] if name in slow else []
        return is_slow + ([pytest.mark.proof] if name in proof else [])

    return [pytest.param(name, marks=marks(name)) for name in names]


@pytest.mark.parametrize("name", named(PROGRAMS, slow={"transformer_mixed"}))
def test_an_interrupted_program_equals_plain_fit(name: str, tmp_path: Path) -> None:
    expected = plain_fit(name)
    result = interrupted_fit(name, tmp_path, every=3, kills=[5])
    assert not differences(expected, result)


# Kills that leave a checkpoint behind: Keras learns how long these epochs are, and so
# where inside them to save, only when the first has ended.
KILLS = {"unknown_length": [10, 6]}

# The others are validated in test_validation_goes_on_in_the_order_that_is_due.
RARE = VARIANTS.keys() - COMMON - set(VALIDATED)


@pytest.mark.parametrize("name", named(VARIANTS, slow=RARE, proof=set(VALIDATED)))
def test_every_way_of_giving_data_and_callbacks_equals_plain_fit(
    name: str, tmp_path: Path
) -> None:
    expected = plain_fit(name)
    kills = KILLS.get(name, [3, 6])
    result = interrupted_fit(name, tmp_path, every=2, kills=kills)
    assert not differences(expected, result)


@pytest.mark.parametrize(
    "name", named(VALIDATED, slow=VALIDATED[:1], proof=VALIDATED[1:])
)
@pytest.mark.parametrize("every", [2, pytest.param(None, marks=pytest.mark.proof)])
def test_validation_goes_on_in_the_order_that_is_due(
    name: str, every: int | None, tmp_path: Path
) -> None:
    """Killed after one validation and after three; a sum shows any other order."""
    expected = plain_fit(name)
    result = interrupted_fit(name, tmp_path, every=every, kills=[10, 20])
    assert not differences(expected, result)


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(
            kill, marks=pytest.mark.slow if kill in (2, 8) else pytest.mark.proof
        )
        for kill in range(2, 24)
    ],
)
def test_an_interruption_after_any_batch_equals_plain_fit(
    kill: int, tmp_path: Path
) -> None:
    """24 batches in 3 epochs; a save after each. The 8th is an epoch's last.

    The first is interrupted before its save, so nothing of it could be continued.
    """
    expected = plain_fit("mlp")
    result = interrupted_fit("mlp", tmp_path, every=1, kills=[kill])
    assert not differences(expected, result)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.slow if name in HARD else pytest.mark.proof
        )
        for name in sorted(PROGRAMS.keys() | VARIANTS.keys())
    ],
)
def test_saves_at_epochs_ends_and_many_short_lives_equal_plain_fit(
    name: str, tmp_path: Path
) -> None:
    expected = plain_fit(name)
    # In the second epoch: its data is twice as long.
    kill = 17 if name == "repeated" else 9
    by_epoch = interrupted_fit(name, tmp_path / "epochs", every=None, kills=[kill])
    assert not differences(expected, by_epoch)
    kills = KILLS.get(name, [5, 5, 5])
    short = interrupted_fit(name, tmp_path / "short", every=4, kills=kills)
    assert not differences(expected, short)


def test_a_finished_run_returns_its_history_without_training(tmp_path: Path) -> None:
    expected = interrupted_fit("early_stopping", tmp_path, every=3, kills=[4])
    program = build("early_stopping")
    batches: list[int] = []
    count = keras.callbacks.LambdaCallback(
        on_batch_end=lambda batch, logs=None: batches.append(batch)
    )
    result = fit(program, [count, rtf.ResumeCallback(str(tmp_path))])
    assert not batches
    assert not differences(expected, result)


def test_our_fit_takes_what_model_fit_takes(tmp_path: Path) -> None:
    expected = plain_fit("own_callback")
    begun: list[tuple[int, int]] = []
    for callbacks in ([interrupt_after(7)], [first_batch(begun)]):
        program = build("own_callback")
        with contextlib.suppress(Interrupted):
            history = rtf.fit(
                program.model,
                run_dir=str(tmp_path),
                resume={"save_every_steps": 2},
                callbacks=[*program.callbacks, *callbacks],
                verbose=0,
                **program.arguments,
            )
        wait_for_saves()
    assert begun == [(0, 6)]
    assert not differences(expected, result_of(program.model, history))


def stop_after(num_batches: int) -> Any:
    """Returns a callback that asks for a stop by a signal, as a cloud does."""
    left = [num_batches]

    def count(batch: int, logs: Any = None) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    return keras.callbacks.LambdaCallback(on_batch_end=count)


def test_sigterm_saves_and_ends_with_code_75(tmp_path: Path) -> None:
    expected = plain_fit("mlp")
    with pytest.raises(rtf.Preempted, match="SIGTERM: saved step 5") as caught:
        fit(build("mlp"), [stop_after(5), rtf.ResumeCallback(str(tmp_path))])
    assert caught.value.code == 75
    result = resumed_fit(build("mlp"), tmp_path)
    assert not differences(expected, result)


# Keras leaves the log of an interrupted fit open; whoever collects it is warned.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_log_files_have_each_line_once(tmp_path: Path) -> None:
    def program() -> Any:
        made = build("steps_per_epoch")
        logs = str(tmp_path / "board")
        made.callbacks = [
            keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
            keras.callbacks.TensorBoard(logs, update_freq=1),
        ]
        return made

    interrupted_fit("", tmp_path / "run", every=2, kills=[8, 7], program=program)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    steps: dict[str, list[int]] = {}
    for path in sorted((tmp_path / "board" / "train").glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                steps.setdefault(value.tag, []).append(event.step)
    assert len(steps["epoch_loss"]) == 4
    batch_tags = [tag for tag in steps if tag.startswith("batch_loss")]
    assert len(steps[batch_tags[0]]) == len(set(steps[batch_tags[0]])) == 20


class TestWhatCannotBeExactIsRefused:
    """By name, and before anything is trained or changed."""

    def refused(self, program: Any, run_dir: Path, **settings: Any) -> None:
        fit(program, [rtf.ResumeCallback(str(run_dir), **settings)])

    def test_another_pipeline(self, tmp_path: Path) -> None:
        interrupted_fit("mlp", tmp_path, every=3, kills=[5])
        program = build("mlp")
        program.arguments["x"] = fit_variants.shuffled(
            numbers(30, 5), labels(30), batch_size=5
        )
        with pytest.raises(rtf.DataMismatchError, match="_batch_size"):
            self.refused(program, tmp_path)

    def test_one_shuffle_for_training_and_validation(self, tmp_path: Path) -> None:
        program = build("mlp")
        both = tf.data.Dataset.from_tensor_slices((numbers(30, 5), labels(30)))
        both = both.shuffle(30)
        program.arguments["x"] = both.skip(10).batch(4)
        program.arguments["validation_data"] = both.take(10).batch(4)
        with pytest.raises(rtf.ResumableError, match="changes the other's order"):
            self.refused(program, tmp_path)

    def test_another_validation_pipeline(self, tmp_path: Path) -> None:
        interrupted_fit("validation_reshuffled", tmp_path, every=3, kills=[12])
        program = build("validation_reshuffled")
        data = program.arguments["validation_data"]
        program.arguments["validation_data"] = data.unbatch().batch(4)
        with pytest.raises(rtf.DataMismatchError, match="validation dataset is not"):
            self.refused(program, tmp_path)

    def test_another_layer(self, tmp_path: Path) -> None:
        interrupted_fit("numpy_arrays", tmp_path, every=3, kills=[5])
        program = build("numpy_arrays")
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
        model.compile("adam", "mse", metrics=["mae"])
        program.model = model
        before = [v.numpy() for v in model.variables]
        with pytest.raises(rtf.CheckpointMismatchError) as caught:
            self.refused(program, tmp_path)
        assert caught.value.unexpected and caught.value.changed
        after = [v.numpy() for v in model.variables[: len(before)]]
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_variable_that_the_state_does_not_hold(self, tmp_path: Path) -> None:
        hidden = tf.Variable(1.0, name="hidden_scale")

        class Leaky(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.inner = keras.layers.Dense(1)

            def call(self, x: Any) -> Any:
                hidden.assign_add(1.0)
                return self.inner(x) * hidden

        program = build("numpy_arrays")
        program.model = Leaky()
        program.model.compile("adam", "mse")
        with pytest.raises(rtf.ResumableError, match="hidden_scale"):
            self.refused(program, tmp_path)

    def test_random_numbers_from_a_hidden_state(self, tmp_path: Path) -> None:
        class Noisy(keras.layers.Layer):
            def call(self, x: Any) -> Any:
                return x + tf.random.normal(tf.shape(x))

        program = build("numpy_arrays")
        program.model = keras.Sequential([Noisy(), keras.layers.Dense(1)])
        program.model.compile("adam", "mse")
        with pytest.raises(rtf.ResumableError, match="RandomStandardNormal"):
            self.refused(program, tmp_path)

    def test_python_inside_the_pipeline(self, tmp_path: Path) -> None:
        program = build("mlp")
        data = tf.data.Dataset.range(20).map(
            lambda i: tf.numpy_function(lambda n: np.float32(n), [i], tf.float32)
        )
        data = data.map(lambda x: (tf.ensure_shape(x, []) * tf.ones(5), 1)).batch(4)
        program.arguments = {"x": data, "epochs": 2}
        with pytest.raises(rtf.ResumableError, match="PyDataset"):
            self.refused(program, tmp_path, save_every_steps=2)

    def test_a_callback_that_keeps_what_cannot_be_stored(self, tmp_path: Path) -> None:
        class Opens(keras.callbacks.Callback):
            handle: Any = None

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.handle = lambda: epoch

        program = build("numpy_arrays")
        program.callbacks = [Opens()]
        with pytest.raises(rtf.ResumableError, match=r"Opens\.handle .*load_state"):
            self.refused(program, tmp_path, save_every_steps=2)

    def test_a_callback_that_is_gone(self, tmp_path: Path) -> None:
        interrupted_fit("own_callback", tmp_path, every=3, kills=[5])
        program = build("own_callback")
        program.callbacks = []
        with pytest.raises(rtf.CheckpointMismatchError, match="Pass Decisions to fit"):
            self.refused(program, tmp_path)

    @pytest.mark.skipif(not IS_KERAS_3, reason="one Keras is enough")
    def test_backup_and_restore_beside_it(self, tmp_path: Path) -> None:
        program = build("numpy_arrays")
        program.callbacks = [keras.callbacks.BackupAndRestore(str(tmp_path / "b"))]
        with pytest.raises(rtf.ResumableError, match="leave BackupAndRestore out"):
            self.refused(program, tmp_path)
