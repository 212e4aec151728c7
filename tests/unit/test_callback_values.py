"""What callbacks keep in their attributes comes back as it was, and nothing else moves.

Each class stands for one shape of a value. It is made anew by the same constructor, as
in another process, and must then be equal in types, values and shared objects.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers.callback_shapes import (
    DEFAULT,
    OTHER,
    SHAPES,
    SHARED,
    Aliases,
    FlagThatIsReset,
    Level,
    Phase,
    Setting,
    Switch,
)
from helpers.deep_form import deep_form

import resumable_tf as rtf
from resumable_tf.state.python_values import decode, encode
from resumable_tf.training.keras.callback_states import CallbackStates


def states(*callbacks: Any) -> CallbackStates:
    return CallbackStates(callbacks, covered=lambda variable: False, began=0.0)


def through_bytes(followed: CallbackStates) -> Any:
    return decode(encode(followed.capture()))


def global_form() -> Any:
    return deep_form([list(Phase), list(Level), list(Switch), DEFAULT, OTHER])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_new_object_becomes_what_the_trained_one_was(shape: Any) -> None:
    SHARED["seen"] = 0
    one = shape()
    followed = states(one)
    one.train()
    record = through_bytes(followed)
    expected, outside = deep_form(one), global_form()
    SHARED["seen"] = 0
    two = shape()
    restored = states(two)
    assert deep_form(two) != expected
    for _ in range(2):  # fit does it twice, and training may come between.
        restored.apply(record)
        assert deep_form(two) == expected
    assert global_form() == outside
    for obj in (one, two):
        if hasattr(obj, "use"):
            obj.use()
        obj.train()
    assert deep_form(two) == deep_form(one)
    assert deep_form(through_bytes(restored)) == deep_form(through_bytes(followed))


def test_an_object_that_two_callbacks_share_stays_one() -> None:
    def program() -> tuple[Any, Any]:
        one, other = Aliases(), Aliases()
        other.stats, other.rows = one.stats, one.rows
        return one, other

    first = program()
    followed = states(*first)
    first[0].train()
    first[1].record = first[0].new
    first[1].linked = first[0].new
    record = through_bytes(followed)
    second = program()
    states(*second).apply(record)
    assert deep_form(list(second)) == deep_form(list(first))
    assert second[0].stats is second[1].stats and second[0].new is second[1].linked


def test_what_a_new_epoch_changes_before_the_restore_is_put_back() -> None:
    one = FlagThatIsReset()
    followed = states(one)
    one.train()
    record = through_bytes(followed)
    two = FlagThatIsReset()
    restored = states(two)
    restored.apply(record)
    two.begin()
    restored.apply(record)
    assert deep_form(two) == deep_form(one)


class Plain:
    """Not made of data alone: its constructor may do anything."""

    def __init__(self, value: int) -> None:
        self.value = value


@dataclasses.dataclass
class WithEnd:
    path: str

    def __del__(self) -> None:
        """Would run with whatever path a file gives."""


class Refused:
    """Each method leaves something that could not be restored."""

    seen: list[int] = []  # noqa: RUF012
    count = 0

    def __init__(self) -> None:
        self.value: Any = None
        self.array = np.zeros(6)
        self.masked = np.ma.masked_array([1, 2], [0, 0])
        self.numbers = iter(range(9))
        self.setting = Setting(0.5)

    def own_class(self) -> None:
        self.value = Plain(3)

    def in_a_list(self) -> None:
        self.value = [Plain(3)]

    def with_end(self) -> None:
        self.value = WithEnd("x")

    def a_lambda(self) -> None:
        self.value = lambda: 3

    def a_function(self) -> None:
        self.value = states

    def a_variable(self) -> None:
        self.value = tf.Variable(1.0)

    def a_cycle(self) -> None:
        self.value = []
        self.value.append(self.value)

    def deep(self) -> None:
        self.value = []
        for _ in range(300):
            self.value = [self.value]

    def a_view(self) -> None:
        self.value = self.array[2:]

    def masked_array(self) -> None:
        self.masked[0] = 7

    def an_iterator(self) -> None:
        next(self.numbers)

    def of_the_class(self) -> None:
        self.seen.append(1)

    def number_of_the_class(self) -> None:
        type(self).count += 1

    def computed_name(self) -> None:
        for name in ("a", "b"):
            setattr(self, f"best_{name}", 1)

    def frozen(self) -> None:
        object.__setattr__(self.setting, "rate", 3.0)

    def a_local_class(self) -> None:
        class Local(enum.Enum):
            A = 1

        self.value = Local.A

    def objects(self) -> None:
        self.value = np.array([object()])

    def a_named_zone(self) -> None:
        zone = datetime.timezone(datetime.timedelta(0), "here")
        self.value = datetime.datetime(2020, 1, 1, tzinfo=zone)


@pytest.mark.parametrize(
    "method",
    [
        name
        for name in vars(Refused)
        if callable(vars(Refused)[name]) and name[0] != "_"
    ],
)
def test_what_could_not_be_restored_is_refused_by_the_save(method: str) -> None:
    obj = Refused()
    followed = states(obj)
    followed.capture()
    getattr(obj, method)()
    try:
        with pytest.raises(
            rtf.ResumableError, match=r"(?s)Refused|masked|numbers|view"
        ):
            followed.capture()
    finally:
        Refused.count = 0
        Refused.seen.clear()
