"""`model.fit` that can be killed at any moment.

history = rtf.fit(model, dataset, epochs=10, run_dir="runs/demo")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resumable_tf.storage import PathLike
from resumable_tf.training.keras.resume_callback import ResumeCallback


def fit(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    run_dir: PathLike,
    callbacks: Sequence[Any] = (),
    resume: dict[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """Calls `model.fit` with a `ResumeCallback`.

    Args:
        model: A compiled model.
        x: As for `model.fit`.
        y: As for `model.fit`.
        run_dir: A path (also a `pathlib.Path`) or URL; one for each `fit` of a program.
        callbacks: Further callbacks.
        resume: Further arguments of `ResumeCallback`, such as `save_every_steps`.
        **arguments: Further arguments of `model.fit`.

    Returns:
        The `History` of the whole training, also of what ran in earlier processes.

    Raises:
        StateError: If something that changes in training can't be saved.
    """
    resuming = ResumeCallback(run_dir, **(resume or {}))
    return model.fit(x, y, callbacks=[*callbacks, resuming], **arguments)
