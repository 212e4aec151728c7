"""Objects that answer every attribute, or none, don't disturb an audit."""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from resumable_tf.auditing.live_values import live_values
from resumable_tf.auditing.tokens import token


class Raising:
    """As a closed file or a lazy module: each attribute raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name}: it is closed")


class NoDictionary:
    """Answers `__dict__` with an error."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("not yet")


class Proxy:
    """Says that it is an array."""

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        return np.ndarray

    def __getattr__(self, name: str) -> Any:
        return Proxy()

    def __len__(self) -> int:
        return 3


class SeedGenerator:
    """Is called as one of Keras."""


STRANGE = [
    mock.Mock,
    mock.MagicMock,
    lambda: mock.Mock(spec=np.ndarray),
    lambda: mock.MagicMock(spec=tf.Variable),
    lambda: mock.MagicMock(spec=tf.Tensor),
    lambda: mock.MagicMock(spec=dict),
    lambda: mock.MagicMock(spec=np.random.Generator),
    Raising,
    NoDictionary,
    Proxy,
    SeedGenerator,
]


@pytest.mark.parametrize("make", STRANGE)
def test_it_has_no_value_and_does_no_harm(make: Any) -> None:
    strange = make()
    held = [strange, {"a": strange}]
    assert token(strange, covered=lambda variable: False) is None
    assert token(held, covered=lambda variable: False) is not None
    found = live_values(covered=lambda variable: False, frame=sys._getframe())
    assert any(name.startswith("held in") for name in found)


def test_the_generators_of_everybody_are_named() -> None:
    tf.random.set_seed(1)
    tf.random.set_global_generator(tf.random.Generator.from_seed(1))

    def found() -> dict[str, Any]:
        return live_values(covered=lambda variable: False, frame=None)

    before = found()
    tf.random.normal([])
    tf.random.get_global_generator().normal([])
    after = found()
    changed = {name for name in after if name in before and after[name] != before[name]}
    assert "the global generator tf.random" in changed
    assert "the global generator tf.random.get_global_generator()" in changed
