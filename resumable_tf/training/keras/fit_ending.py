"""Tells when a `fit` ends with an exception, of which Keras says nothing to callbacks.

    ending = FitEnding(call, failed=lambda error: ..., before={"evaluate": ...})
    ending.watch()
    ending.forget()         # what was put in place is taken out again

Whatever `fit` does, it does through its own callback list, its model and what gives it
batches. These get wrappers, for this `fit` only, which see the exception as it passes:
at once, also where a traceback keeps all frames alive. A call that others make of the
same methods, such as a callback that evaluates and catches what that raises, is theirs.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from resumable_tf.training.keras.fit_call import FitCall

_OF_CALLBACKS = ("on_epoch_begin", "on_epoch_end", "on_train_end")
_OF_MODEL = (
    *("reset_metrics", "evaluate", "_should_eval"),
    *("_get_metrics_result_or_logs", "_validate_and_get_metrics_result"),
)
_OF_LOOP = "catch_stop_iteration"


class FitEnding:
    """Sees the exception that ends a `fit`."""

    def __init__(
        self,
        call: FitCall,
        failed: Callable[[BaseException], None],
        *,
        before: Mapping[str, Callable[[], None]],
    ) -> None:
        """Changes nothing yet.

        Args:
            call: The running `fit`.
            failed: Called with the exception; perhaps more than once.
            before: Called when `fit` calls the model's method of that name.
        """
        self._call = call
        self._failed = failed
        self._before = before
        self._wrappers = contextlib.ExitStack()

    def watch(self) -> None:
        """Puts the wrappers in place."""
        for name in _OF_CALLBACKS:
            self._wrap(self._call.callback_list, name)
        for name in _OF_MODEL:
            self._wrap(self._call.model, name)
        original = getattr(self._call.loop, _OF_LOOP)
        self._put(self._call.loop, _OF_LOOP, lambda: _Epoch(original(), self._see))

    def forget(self) -> None:
        """Takes the wrappers out."""
        self._wrappers.close()

    def _wrap(self, owner: Any, name: str) -> None:
        original = getattr(owner, name, None)
        if original is None:
            return

        def watched(*arguments: Any, **named: Any) -> Any:
            try:
                if name in self._before and sys._getframe(1) is self._call.frame:
                    self._before[name]()
                return original(*arguments, **named)
            except BaseException as error:
                if sys._getframe(1) is self._call.frame:
                    self._failed(error)
                raise

        self._put(owner, name, watched)

    def _put(self, owner: Any, name: str, value: Any) -> None:
        """Sets an attribute of an instance, past what its class does with these."""
        attributes = vars(owner)
        former = {name: attributes[name]} if name in attributes else {}

        def undo() -> None:
            if attributes.get(name) is value:
                del attributes[name]
                attributes.update(former)

        attributes[name] = value
        self._wrappers.callback(undo)

    def _see(self, error: BaseException | None) -> None:
        if error is not None:
            self._failed(error)
        elif not self._call.is_keras_3 and self._call.frame.f_locals["logs"] is None:
            # tf_keras refuses an epoch without a batch right behind this, by itself.
            self._failed(ValueError("an epoch without a batch"))


class _Epoch:
    """Stands for Keras' context around the batches of an epoch."""

    def __init__(
        self,
        keras: contextlib.AbstractContextManager[Any],
        see: Callable[[BaseException | None], None],
    ) -> None:
        self._keras = keras
        self._see = see

    def __enter__(self) -> Any:
        return self._keras.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        try:
            is_over = bool(self._keras.__exit__(kind, error, trace))
        except BaseException as raised:
            self._see(raised)
            raise
        self._see(None if is_over else error)
        return is_over
