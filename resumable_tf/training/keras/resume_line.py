"""The line by which a `fit` says where it goes on.

    resume_line(state.step, epoch=2, batch=50, epochs=10, num_batches=90)
    # "resumed from step 230: epoch 3 of 10, 50 of 90 batches done; 670 batches to go"

Epochs are counted as Keras' progress bar counts them, from 1.
"""

from __future__ import annotations


def resume_line(
    step: int, *, epoch: int, batch: int, epochs: int, num_batches: int | None
) -> str:
    """Returns it.

    Args:
        step: Completed steps.
        epoch: Index of the epoch that goes on, from 0.
        batch: Batches of it that are done.
        epochs: Number of epochs of the whole training.
        num_batches: Batches of an epoch, None if unknown.
    """
    done = f"{batch} batches done"
    left = ""
    if num_batches is not None:
        done = f"{batch} of {num_batches} batches done"
        left = f"; {(epochs - epoch) * num_batches - batch} batches to go"
    if not batch:
        done = "at its beginning"
    return f"resumed from step {step}: epoch {epoch + 1} of {epochs}, {done}{left}"


def finished_line(step: int, *, epoch: int, epochs: int, was_stopped: bool) -> str:
    """Returns the line of a `fit` that has nothing left to do.

    Args:
        step: Completed steps.
        epoch: Epochs that are done.
        epochs: Epochs that were asked for.
        was_stopped: Whether a callback has ended the training.
    """
    end = f"by a callback after {epoch} of {epochs}" if was_stopped else f"{epoch}"
    verb = "ended" if was_stopped else "complete, all"
    noun = "epoch" if epoch == 1 and not was_stopped else "epochs"
    return (
        f"this training was {verb} {end} {noun} (step {step}) in an earlier start: "
        "nothing is left to do"
    )
