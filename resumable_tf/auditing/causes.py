"""The likely cause of a difference, and what to do about it.

cause, message = cause_of_suspect(Suspect("rng in main() of train.py", RANDOM, True))
"""

from __future__ import annotations

from collections.abc import Sequence

from resumable_tf.auditing.batch_order import BatchShift
from resumable_tf.auditing.log import RANDOM, VALUE, VARIABLE, Record
from resumable_tf.auditing.report import Cause
from resumable_tf.auditing.suspects import Suspect

CAUSE_OF_KIND = {RANDOM: Cause.RANDOM, VARIABLE: Cause.VARIABLE, VALUE: Cause.VALUE}
"""What it means that a value of a kind was not put back."""


def cause_of_difference(
    record: Record,
    match: Record,
    *,
    resumed_from: int,
    shift: BatchShift | None,
    found: Sequence[Suspect],
) -> tuple[Cause, str]:
    """Returns the cause of the first difference after a resume, and what to do.

    Args:
        record: Of the resumed run, where it differs.
        match: Of the uninterrupted run, after the same step.
        resumed_from: Step of the checkpoint.
        shift: Where in the data the resumed run went on, None if at its place.
        found: What may explain it, the most likely first.
    """
    if record.num_replicas != match.num_replicas:
        return Cause.TOPOLOGY, (
            f"the uninterrupted run had {match.num_replicas} replicas and this one "
            f"{record.num_replicas}, so sums are formed in another order. Compare runs "
            "on the same devices"
        )
    if record.step <= resumed_from:
        return Cause.OFF_BY_ONE, (
            f"after the resume from step {resumed_from} the program trained step "
            f"{record.step} once more. Count the step (state.step += 1) before "
            "maybe_save(state), and go on with the batch after state.step"
        )
    if shift is not None:
        return _of_data(shift, found)
    if not found:
        return Cause.UNKNOWN, (
            "nothing else in the program's own code differs: a file, a clock, or a "
            "library that keeps something out of sight"
        )
    return cause_of_suspect(found[0])


def _of_data(shift: BatchShift, found: Sequence[Suspect]) -> tuple[Cause, str]:
    advice = (
        "Use rtf.ResumableIterator(dataset) and pass it as TrainState(data=...), or "
        "make the batch a function of the step"
    )
    if shift.is_off_by_one:
        return Cause.OFF_BY_ONE, (
            f"the first batch after the resume is that of place {shift.found}, and "
            f"{shift.expected} comes next. {advice}"
        )
    if shift.found is not None:
        return Cause.DATA, (
            f"the first batch after the resume is that of place {shift.found} instead "
            f"of {shift.expected}. {advice}"
        )
    lost = [s.name for s in found if s.was_lost and s.kind == RANDOM]
    by = f" ({lost[0]} was not put back)" if lost else ""
    return Cause.DATA, (
        f"the batches after the resume are others, in another order{by}. {advice}"
    )


def cause_of_suspect(suspect: Suspect) -> tuple[Cause, str]:
    """Returns the cause that a value beside the state is, and what to do.

    Args:
        suspect: The value.
    """
    cause = CAUSE_OF_KIND.get(suspect.kind, Cause.VALUE)
    when = "was not put back" if suspect.was_lost else "differs after the resume"
    if suspect.name.startswith("the global generator"):
        advice = (
            "TrainState puts it back unless it has global_random=False; something "
            "draws from it after the restore. Draw from a generator of your own that "
            "is saved, or from the step: np.random.default_rng([seed, step]), "
            "tf.random.stateless_*"
        )
    elif cause is Cause.RANDOM:
        advice = (
            "Make it part of the state: an attribute of the model, or an object of "
            "TrainState; or draw from (seed, step)"
        )
    elif cause is Cause.VARIABLE:
        advice = "Pass it, or the object that owns it, to TrainState"
    else:
        advice = (
            "Keep it in state.extra, in an attribute of the callback, or compute it "
            "from state.step"
        )
    return cause, f"{suspect.name} {when}. {advice}"
