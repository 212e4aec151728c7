"""The call of `model.fit` that a callback runs in.

    call = find_fit_call(callback)
    call.model, call.epochs, call.callback_list

Keras tells a callback neither the other callbacks nor the iterator over the data, and
both belong to the training state. They are found in the frames of the running `fit`.
These are no public names; where they are missing, an error says so.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

from resumable_tf.errors import StateError

_KERAS_3_LOOP, _TF_KERAS_LOOP = "epoch_iterator", "data_handler"


@dataclass(frozen=True)
class FitCall:
    """A running `fit`.

    Attributes:
        model: The model in training.
        callback_list: Keras' container of all callbacks.
        loop: What gives `fit` its epochs and batches: an `EpochIterator` of Keras 3 or
            a `DataHandler` of tf_keras.
        is_keras_3: Which of the two.
        epochs: Where training ends.
        training_data: The argument `x` of `fit`.
        validation_data: The argument of that name.
        frame: The frame of `fit` itself.
    """

    model: Any
    callback_list: Any
    loop: Any
    is_keras_3: bool
    epochs: int
    training_data: Any
    validation_data: Any
    frame: FrameType

    def is_running(self, frame: FrameType | None) -> bool:
        """Returns whether a frame was called from this very `fit`, or is its own."""
        while frame is not None and frame is not self.frame:
            frame = frame.f_back
        return frame is not None

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arguments `x`, `y` and `sample_weight` of `fit`."""
        found = self.frame.f_locals
        return tuple(found.get(name) for name in ("x", "y", "sample_weight"))

    @property
    def strategy(self) -> Any:
        """The strategy that the model was made under."""
        return self.model.distribute_strategy

    @property
    def steps_per_execution(self) -> int:
        """Batches in one call of the compiled step."""
        loop = self.loop
        if self.is_keras_3:
            return int(loop.steps_per_execution)
        return int(loop._steps_per_execution.numpy())


def find_fit_call(callback: Any) -> FitCall:
    """Returns the `fit` that is calling `callback.on_train_begin`.

    Args:
        callback: One of its callbacks.

    Raises:
        StateError: If no such call is found, or it is of an unknown form.
    """
    callback_list = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals
        owner = found.get("self")
        if callback_list is None and callback in _callbacks_of(owner):
            callback_list = owner
        if frame.f_code.co_name == "fit" and callback_list is not None:
            for name in (_KERAS_3_LOOP, _TF_KERAS_LOOP):
                if name in found:
                    return FitCall(
                        model=owner,
                        callback_list=callback_list,
                        loop=found[name],
                        is_keras_3=name == _KERAS_3_LOOP,
                        epochs=int(found["epochs"]),
                        training_data=found["x"],
                        validation_data=found.get("validation_data"),
                        frame=frame,
                    )
        frame = frame.f_back
    raise StateError(
        "ResumeCallback works inside model.fit of Keras 3 (to 3.15) and of tf_keras "
        "2.19 to 2.21; the call that it runs in is none of these. For a loop of your "
        "own use TrainState and Checkpointer"
    )


def _callbacks_of(owner: Any) -> list[Any]:
    if type(owner).__name__ != "CallbackList":
        return []
    return list(owner.callbacks)
