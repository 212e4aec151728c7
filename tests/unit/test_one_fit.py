"""One run directory for two fits is an error that names both, never silent.

Guards against folds of a cross-validation that are not trained at all, and get the
weights and the history of the first one.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.keras_programs import numbers

import resumable_tf as rtf
from resumable_tf.errors import UsageError
from resumable_tf.training.keras.one_fit import forget_completed as start_again

keras = tf.keras
ROWS = 20


@pytest.fixture(autouse=True)
def _as_a_new_process() -> Iterator[None]:
    start_again()
    yield
    start_again()


def make_model(seed: int = 1) -> Any:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def fit(
    callback: Any,
    *,
    data_seed: int = 1,
    epochs: int = 2,
    model: Any = None,
    **more: Any,
) -> Any:
    x, y = numbers(ROWS, 4, seed=data_seed), numbers(ROWS, 1, seed=data_seed + 50)
    if not isinstance(callback, list):
        callback = [callback]
    arguments = {"epochs": epochs, "callbacks": callback, "verbose": 0, **more}
    return (model or make_model()).fit(x, y, batch_size=5, **arguments)


def resume(run_dir: Any) -> Any:
    return rtf.ResumeCallback(str(run_dir))


class Broken(Exception):
    """Stands for a kill."""


def broken_after(num_batches: int) -> Any:
    left = [num_batches]

    def count(batch: int, logs: Any = None) -> None:
        left[0] -= 1
        if not left[0]:
            raise Broken

    return keras.callbacks.LambdaCallback(on_train_batch_end=count)


def test_a_second_fold_in_the_directory_of_the_first_is_refused_by_both_names(
    tmp_path: Path,
) -> None:
    fit(resume(tmp_path), epochs=2)
    with pytest.raises(UsageError, match="another fit of this program") as caught:
        fit(resume(tmp_path), epochs=3, data_seed=2)
    text = str(caught.value)
    assert text.count("test_one_fit.py:") == 2
    assert "epochs=2" in text
    assert "epochs=3" in text
    assert 'second-fit")' in text
    # What it was told to do works.
    history = fit(resume(f"{tmp_path}/second-fit"), epochs=3, data_seed=2)
    assert history.epoch == [0, 1, 2]


def test_one_callback_object_or_a_copy_for_two_fits_is_refused(tmp_path: Path) -> None:
    callback = resume(tmp_path)
    again = copy.deepcopy(callback)  # As a tuner makes it for each trial.
    fit(callback)
    for second in (callback, again):
        with pytest.raises(UsageError, match="another fit"):
            fit(second)


def test_other_ways_to_write_the_directory_are_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit(resume("run"))
    os.symlink("run", "link")
    for name in (f"{tmp_path}/run", "./run/", "link"):
        with pytest.raises(UsageError, match="another fit"):
            fit(resume(name))


def test_two_callbacks_in_one_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two ResumeCallbacks"):
        fit([resume(tmp_path / "a"), resume(tmp_path / "b")])


def test_the_same_program_again_gets_its_history_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fit(resume(tmp_path))
    start_again()
    model = make_model(seed=2)
    again = fit(resume(tmp_path), model=model)
    assert again.history == first.history
    np.testing.assert_array_equal(model.get_weights()[0], first.model.get_weights()[0])
    assert "nothing is left to do" in capsys.readouterr().out


def test_a_second_fit_is_refused_where_the_first_was_skipped_too(
    tmp_path: Path,
) -> None:
    fit(resume(tmp_path))
    start_again()
    fit(resume(tmp_path))
    with pytest.raises(UsageError, match="another fit"):
        fit(resume(tmp_path))


def test_killed_in_its_second_fit_a_program_with_two_directories_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = fit(resume(tmp_path / "expected"), data_seed=2)
    start_again()
    fit(resume(tmp_path / "one"))
    with pytest.raises(Broken):
        fit([resume(tmp_path / "two"), broken_after(6)], data_seed=2)
    start_again()
    capsys.readouterr()
    fit(resume(tmp_path / "one"))
    found = fit(resume(tmp_path / "two"), data_seed=2)
    assert "resumed from step 4: epoch 2 of 2" in capsys.readouterr().out
    assert found.history == expected.history


def test_an_interrupted_fit_is_no_other_fit(tmp_path: Path) -> None:
    with pytest.raises(Broken):
        fit([resume(tmp_path), broken_after(6)])
    assert fit(resume(tmp_path)).epoch == [0, 1]


@pytest.mark.parametrize("as_dataset", [False, True])
def test_other_rows_of_the_same_shape_are_refused(
    tmp_path: Path, as_dataset: bool
) -> None:
    """Another fold, in another process: nothing but the rows tells them apart."""

    def train(seed: int) -> None:
        if not as_dataset:
            fit(resume(tmp_path), data_seed=seed)
            return
        rows = numbers(ROWS, 4, seed=seed), numbers(ROWS, 1, seed=seed)
        data = tf.data.Dataset.from_tensor_slices(rows).batch(5)
        arguments = {"epochs": 2, "verbose": 0, "shuffle": False}
        make_model().fit(data, callbacks=[resume(tmp_path)], **arguments)

    train(1)
    start_again()
    with pytest.raises(rtf.DataMismatchError, match="rows"):
        train(2)


def test_fewer_epochs_than_are_done_are_refused(tmp_path: Path) -> None:
    fit(resume(tmp_path), epochs=3)
    start_again()
    with pytest.raises(rtf.ConfigMismatchError, match="3 epochs already") as caught:
        fit(resume(tmp_path), epochs=2)
    assert "epochs=2" in str(caught.value)


def test_more_epochs_go_on_with_the_training_and_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = fit(resume(tmp_path / "whole"), epochs=4)
    fit(resume(tmp_path / "run"), epochs=2)
    start_again()
    capsys.readouterr()
    found = fit(resume(tmp_path / "run"), epochs=4)
    assert "epoch 3 of 4, at its beginning; 8 batches to go" in capsys.readouterr().out
    assert found.history == expected.history


def test_an_initial_epoch_is_counted_once(tmp_path: Path) -> None:
    with pytest.raises(Broken):
        fit([resume(tmp_path), broken_after(6)], epochs=4, initial_epoch=1)
    assert fit(resume(tmp_path), epochs=4, initial_epoch=1).epoch == [1, 2, 3]


def test_a_fit_in_the_directory_of_a_loop_is_refused_in_plain_words(
    tmp_path: Path,
) -> None:
    model = make_model()
    state = rtf.TrainState(model=model, optimizer=model.optimizer)
    with rtf.Checkpointer(str(tmp_path)) as checkpointer:
        state.step = 3
        checkpointer.save(state)
    with pytest.raises(
        rtf.CheckpointMismatchError, match=r"saved by a training loop .*, not by"
    ):
        fit(resume(tmp_path))


def test_silent_means_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(resume(tmp_path), epochs=1)
    start_again()
    capsys.readouterr()
    fit(rtf.ResumeCallback(str(tmp_path), verbose=0), epochs=2)
    assert capsys.readouterr() == ("", "")
