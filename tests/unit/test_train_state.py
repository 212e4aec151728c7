"""TrainState holds everything that changes, under TensorFlow's own keys.

Guards against the holes in TensorFlow's own checkpoints: dropout seeds, metrics and
single replicas' values are not in them, and nobody notices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from resumable_tf.errors import StateError
from resumable_tf.state import Entry, TrainState
from resumable_tf.state.object_graph import escape, unescape

BOOKKEEPING = {
    "_CHECKPOINTABLE_OBJECT_GRAPH",
    "save_counter/.ATTRIBUTES/VARIABLE_VALUE",
}


class Mixed(tf.Module):
    """One of each: nested lists, dictionaries, shared variables, odd names, tables."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [tf.Variable([1.0, 2.0]), [tf.Variable(3, dtype=tf.int64)]]
        self.table = {"a": tf.Variable("text"), "b": self.weights[0]}
        self._track_trackable(tf.Variable(True), "odd/na.me")
        self.generator = tf.random.Generator.from_seed(5)
        self.lookup = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.lookup.insert(["x"], [7])
        self.me = self


def model_and_optimizer() -> tuple[Any, Any]:
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input((4,)),
            tf.keras.layers.Dense(3),
            tf.keras.layers.Dropout(0.5),
            tf.keras.layers.BatchNormalization(),
            tf.keras.layers.Dense(1),
        ]
    )
    return model, tf.keras.optimizers.Adam(0.1)


def train(model: Any, optimizer: Any, *, num_steps: int) -> list[float]:
    inputs = tf.reshape(tf.range(32, dtype=tf.float32), (8, 4)) / 32.0
    losses = []
    for _ in range(num_steps):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(inputs, training=True) - 1.0) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        losses.append(float(loss))
    return losses


def read_bundle(path: str) -> dict[str, Any]:
    reader = tf.train.load_checkpoint(path)
    keys = set(reader.get_variable_to_shape_map()) - BOOKKEEPING
    return {key: reader.get_tensor(key) for key in keys}


def specs(path: str) -> dict[str, tuple[tuple[int, ...], str]]:
    return {
        key: (
            np.shape(value),
            "string" if isinstance(value, bytes) else value.dtype.name,
        )
        for key, value in read_bundle(path).items()
    }


def assert_equal_bundles(one: str, other: str) -> None:
    first, second = read_bundle(one), read_bundle(other)
    assert set(first) == set(second)
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


@pytest.mark.parametrize("make", ["mixed", "keras"])
def test_snapshot_is_what_tensorflow_itself_would_write(
    make: str, tmp_path: Path
) -> None:
    if make == "mixed":
        state = TrainState(mixed=Mixed(), more=[tf.Variable(1.0)])
    else:
        model, optimizer = model_and_optimizer()
        state = TrainState(model=model, optimizer=optimizer)
        train(model, optimizer, num_steps=2)
    ours = state.capture().checkpoint().write(str(tmp_path / "ours"))
    theirs = state.checkpoint().write(str(tmp_path / "theirs"))
    assert_equal_bundles(ours, theirs)
    assert {entry.key for entry in state.inventory()} == set(read_bundle(ours))


def test_bundles_of_equal_states_are_equal_tensor_for_tensor(tmp_path: Path) -> None:
    paths = []
    for run in ("a", "b"):
        state = TrainState(mixed=Mixed())
        paths.append(state.capture().checkpoint().save(str(tmp_path / run)))
    assert_equal_bundles(*paths)


def test_keras_dropout_seeds_are_in_the_inventory() -> None:
    model, optimizer = model_and_optimizer()
    state = TrainState(model=model, optimizer=optimizer)
    untracked = [e for e in state.inventory() if e.key.startswith("untracked/")]
    assert [entry.owner for entry in untracked] == [
        f"model: {model.layers[1].seed_generator.state.path}"
    ]


def test_restored_keras_training_continues_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    state = TrainState(model=model, optimizer=optimizer)
    train(model, optimizer, num_steps=3)
    path = state.capture().checkpoint().save(str(tmp_path / "ckpt"))
    expected = train(model, optimizer, num_steps=4)
    again, another = model_and_optimizer()
    restored = TrainState(model=again, optimizer=another)
    restored.apply(path, specs(path))
    assert train(again, another, num_steps=4) == expected


def test_tensorflow_alone_can_restore_the_bundle(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    state = TrainState(model=model, optimizer=optimizer)
    train(model, optimizer, num_steps=1)
    path = state.capture().checkpoint().save(str(tmp_path / "ckpt"))
    expected = train(model, optimizer, num_steps=2)
    again, another = model_and_optimizer()
    another.build(again.trainable_variables)
    seeds = [again.layers[1].seed_generator.state]
    tf.train.Checkpoint(model=again, optimizer=another, untracked=seeds).restore(
        path
    ).assert_existing_objects_matched()
    assert train(again, another, num_steps=2) == expected


def test_metrics_of_a_compiled_model_are_saved() -> None:
    model, optimizer = model_and_optimizer()
    model.compile(optimizer=optimizer, loss="mse", metrics=["mae"])
    model.fit(np.ones((4, 4)), np.ones((4, 1)), verbose=0)
    owners = [entry.owner for entry in TrainState(model=model).inventory()]
    assert "model: mean_absolute_error/total" in owners
    assert "model: loss/count" in owners


@pytest.mark.parametrize("kind", ["dense", "sparse", "function", "xla", "optimizer"])
def test_a_snapshot_does_not_see_later_updates(kind: str, tmp_path: Path) -> None:
    variable = tf.Variable(tf.range(12, dtype=tf.float32)[:, None] + tf.zeros((1, 5)))
    before = variable.numpy()
    optimizer = tf.keras.optimizers.Adam(0.1)
    optimizer.build([variable])

    def sparse() -> None:
        variable.scatter_add(tf.IndexedSlices(tf.ones((1, 5)), tf.constant([3])))

    def with_gradient() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(variable, [1, 2]) ** 2)
        optimizer.apply_gradients([(tape.gradient(loss, variable), variable)])

    updates = {
        "dense": lambda: variable.assign_add(tf.ones_like(variable)),
        "sparse": sparse,
        "function": tf.function(lambda: variable.assign_sub(variable * 0.5)),
        "xla": tf.function(lambda: variable.assign(variable * 2.0), jit_compile=True),
        "optimizer": with_gradient,
    }
    snapshot = TrainState(v=variable, global_random=False).capture()
    for _ in range(3):
        updates[kind]()
        middle = TrainState(v=variable, global_random=False).capture()
        value = variable.numpy()
        updates[kind]()
        path = middle.checkpoint().write(str(tmp_path / "middle"))
        np.testing.assert_array_equal(*read_bundle(path).values(), value)
    assert not np.array_equal(variable.numpy(), before)
    path = snapshot.checkpoint().write(str(tmp_path / "ckpt"))
    np.testing.assert_array_equal(*read_bundle(path).values(), before)


def test_inventory_tells_key_shape_dtype_size_and_owner() -> None:
    variable = tf.Variable(tf.zeros((2, 3), tf.bfloat16), name="weights")
    state = TrainState(v=variable, global_random=False)
    assert state.inventory() == [
        Entry(
            key="v/.ATTRIBUTES/VARIABLE_VALUE",
            shape=(2, 3),
            dtype="bfloat16",
            size_bytes=12,
            owner="v",
        )
    ]


def test_an_optimizer_is_built_and_one_without_a_model_is_refused() -> None:
    model, optimizer = model_and_optimizer()
    assert not optimizer.built
    TrainState(model=model, optimizer=optimizer)
    assert optimizer.built
    with pytest.raises(StateError, match="call the model on one batch"):
        TrainState(optimizer=tf.keras.optimizers.Adam())


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"data": object()}, TypeError, "has no describe"),
        ({"x": 3}, TypeError, "x=int can't be saved"),
        ({"x": np.zeros(3)}, TypeError, "x=ndarray can't be saved"),
        ({"untracked": tf.Module()}, ValueError, "taken by the checkpoint"),
        ({"save_counter": tf.Module()}, ValueError, "taken by the checkpoint"),
    ],
)
def test_what_cannot_be_saved_is_refused_at_once(
    arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        TrainState(**arguments)


def test_capture_inside_a_graph_is_refused() -> None:
    state = TrainState(v=tf.Variable(1.0))

    @tf.function(autograph=False)
    def step() -> None:
        state.capture()

    with pytest.raises(StateError, match="save between steps"):
        step()


@pytest.mark.parametrize("name", ["a", "a/b", "a.b", "a..S/b.", ".S", "./.", "a.S.b"])
def test_names_are_escaped_and_unescaped(name: str) -> None:
    assert unescape(escape(name)) == name
    assert "/" not in escape(name)


def test_position_comes_from_the_loop_or_from_the_data() -> None:
    class Data:
        steps_per_epoch = 2.5

        def describe(self) -> dict[str, Any]:
            return {"seed": 1}

    state = TrainState(data=Data(), v=tf.Variable(0))
    state.step = 6
    assert state.position() == (2, 1)
    state.extra = {"epoch": 4, "batch": 0}
    assert state.position() == (4, 0)
    assert TrainState(v=tf.Variable(0)).position() == (None, None)
