"""From the logs of several processes to a report; a pure function.

report = judge(Logs(whole=[...], processes=[[...], [...]]))
report.is_exact, report.cause, report.first_step
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from resumable_tf.auditing.batch_order import find_shift
from resumable_tf.auditing.causes import (
    CAUSE_OF_KIND,
    cause_of_difference,
    cause_of_suspect,
)
from resumable_tf.auditing.log import (
    RANDOM,
    RESTORED,
    START,
    STEP,
    VARIABLE,
    Record,
)
from resumable_tf.auditing.report import AuditReport, Cause
from resumable_tf.auditing.suspects import (
    Suspect,
    differing,
    noisy_names,
    suspects,
)

_NUM_SUSPECTS = 5


@dataclasses.dataclass(frozen=True)
class Logs:
    """What the processes of one audit have written.

    Attributes:
        whole: Of the run that was never interrupted.
        processes: Of the run that was killed: one log for each start.
        again: Of a second run that was never interrupted, None without.
    """

    whole: Sequence[Record]
    processes: Sequence[Sequence[Record]]
    again: Sequence[Record] | None = None


@dataclasses.dataclass(frozen=True)
class _Resume:
    """One start that went on from a checkpoint, beside the uninterrupted run."""

    whole: Sequence[Record]
    records: Sequence[Record]
    noise: set[str]

    @property
    def step(self) -> int:
        return self.records[0].step

    @property
    def base(self) -> Record | None:
        """The uninterrupted run where the checkpoint was taken."""
        return _last_of(self.whole, self.step)

    @property
    def restored(self) -> Record:
        """All that was put back; `fit` does it in several parts."""
        parts = [r for r in self.records if r.kind == RESTORED]
        live = {name: token for part in parts for name, token in part.live.items()}
        return dataclasses.replace(parts[0], live=live)

    @property
    def steps(self) -> list[Record]:
        return [record for record in self.records if record.kind == STEP]

    def at_restore(self) -> dict[str, str]:
        """Returns what training had moved before the checkpoint, and is not there."""
        base = self.base
        if base is None:
            return {}
        begin = self.whole[0].live
        return {
            name: kind
            for name, kind in differing(self.restored, base).items()
            if name not in begin or list(begin[name]) != list(base.live[name])
        }


def judge(logs: Logs) -> AuditReport:
    """Returns what the logs say.

    Args:
        logs: Of all processes; the last of `processes` has run to the end.
    """
    first = logs.processes[0]
    unstable = judge_uninterrupted(logs.whole, first)
    if unstable is None and logs.again is not None:
        unstable = judge_uninterrupted(logs.whole, logs.again)
    if unstable is not None:
        return unstable
    noise = noisy_names(_pairs(logs.whole, first))
    steps, compared, resumes = [], 0, list(logs.processes[1:])
    for records in resumes:
        if not records or records[0].kind != RESTORED:
            return _nothing_committed(first)
        resume = _Resume(logs.whole, records, noise)
        steps.append(resume.step)
        report = _judge_resume(resume)
        if report is not None:
            return dataclasses.replace(report, resumed_from=tuple(steps))
        compared += len({record.step for record in resume.steps})
    report = _judge_end(logs, steps) or _judge_beside(logs, noise)
    if report is not None:
        return dataclasses.replace(report, resumed_from=tuple(steps))
    return AuditReport(
        is_exact=True,
        message="every tensor is the same, bit for bit",
        resumed_from=tuple(steps),
        num_tensors=len(logs.whole[-1].state) if logs.whole else 0,
        num_steps=compared,
    )


def first_difference(one: Record, other: Record) -> str | None:
    """Returns the first key of the state that is not alike, None if all are."""
    for key, value in one.state.items():
        if other.state.get(key) != value:
            return key
    return next((key for key in other.state if key not in one.state), None)


def _judge_resume(resume: _Resume) -> AuditReport | None:
    base, restored = resume.base, resume.restored
    if base is not None:
        both = {k: v for k, v in restored.state.items() if k in base.state}
        key = first_difference(
            dataclasses.replace(restored, state=both),
            dataclasses.replace(base, state={k: base.state[k] for k in both}),
        )
        if key is not None and restored.num_replicas == base.num_replicas:
            return _restored_other(resume, key)
    known = {(r.step, r.phase): r for r in resume.whole if r.kind == STEP}
    read: list[str] = []
    for record in resume.steps:
        read.extend(record.batches)
        match = known.get((record.step, record.phase))
        if match is None:
            continue
        key = first_difference(record, match)
        if key is not None:
            return _explain(resume, record, match, key=key, read=read)
    return None


def _explain(
    resume: _Resume, record: Record, match: Record, *, key: str, read: Sequence[str]
) -> AuditReport:
    """Returns the likely cause of the first difference after a resume."""
    found = suspects(
        at_restore=resume.at_restore(),
        after_step=differing(record, match),
        noise=resume.noise,
    )
    cause, message = cause_of_difference(
        record,
        match,
        resumed_from=resume.step,
        shift=find_shift(_batches_of(resume), read, _num_read(resume)),
        found=found,
    )
    is_inferred = cause is Cause.UNKNOWN or (
        cause in CAUSE_OF_KIND.values() and not found[0].was_lost
    )
    return AuditReport(
        is_exact=False,
        cause=cause,
        message=message,
        is_certain=not is_inferred,
        first_step=record.step,
        first_tensor=_label(resume.whole, key),
        suspects=tuple(s.name for s in found[:_NUM_SUSPECTS]),
    )


def _restored_other(resume: _Resume, key: str) -> AuditReport:
    """Returns what to say if a restored state is not what it was at that step."""
    label = _label(resume.whole, key)
    for step in (resume.step - 1, resume.step + 1):
        near = _last_of(resume.whole, step)
        if near is not None and _is_alike(near, resume.restored):
            return AuditReport(
                is_exact=False,
                cause=Cause.OFF_BY_ONE,
                message=(
                    f"the checkpoint of step {resume.step} holds the state after step "
                    f"{step}. Save after the step and after state.step += 1"
                ),
                first_step=resume.step,
                first_tensor=label,
            )
    return AuditReport(
        is_exact=False,
        cause=Cause.RESTORE,
        message=(
            f"right after the restore {label} is not what it was when step "
            f"{resume.step} was saved. Something changed it between the step and the "
            "save, or after the restore"
        ),
        first_step=resume.step,
        first_tensor=label,
    )


def judge_uninterrupted(
    whole: Sequence[Record], other: Sequence[Record]
) -> AuditReport | None:
    """Returns a report if two runs differ that nothing has interrupted, else None.

    Args:
        whole: One of them.
        other: Another; it may end earlier.
    """
    pairs = _pairs(whole, other)
    has_other_batch = False
    for index, (one, twin) in enumerate(pairs):
        key = first_difference(one, twin)
        has_other_batch |= list(one.batches) != list(twin.batches)
        if key is None:
            continue
        before = [*pairs[:index], (one, twin)]
        found = noisy_names(before)
        kinds = {name: token[0] for name, token in one.live.items() if name in found}
        ranked = suspects(at_restore={}, after_step=kinds)
        # Paths, clocks and the like differ in every program.
        lost = [s for s in ranked if s.kind == RANDOM]
        return AuditReport(
            is_exact=False,
            cause=Cause.NOT_DETERMINISTIC,
            message=_unstable_message(one, has_other_batch, lost),
            first_step=one.step,
            first_tensor=_label(whole, key),
            suspects=tuple(s.name for s in lost[:_NUM_SUSPECTS]),
        )
    return None


def _unstable_message(
    record: Record, has_other_batch: bool, found: Sequence[Suspect]
) -> str:
    start = "two runs that nothing interrupted differ"
    by = f"; {found[0].name} differs too" if found else ""
    if record.kind == START:
        return (
            f"{start} before the first step{by}. Seed the initial values: "
            "tf.keras.utils.set_random_seed(seed)"
        )
    if has_other_batch:
        return (
            f"{start}: they read other batches{by}. Give shuffle and every random "
            "generator of the data a seed"
        )
    return (
        f"{start} on the same batches{by}. Seed what is random, leave clocks out, and "
        "call tf.config.experimental.enable_op_determinism()"
    )


def _judge_end(logs: Logs, steps: Sequence[int]) -> AuditReport | None:
    """Returns a report if the resumed run did not end where the other one did."""
    last = [records[-1].step for records in (logs.whole, logs.processes[-1])]
    if last[0] == last[1]:
        return None
    return AuditReport(
        is_exact=False,
        cause=Cause.OFF_BY_ONE if abs(last[0] - last[1]) == 1 else Cause.VALUE,
        message=(
            f"the uninterrupted run ended at step {last[0]}, the resumed one at step "
            f"{last[1]}: what decides when to stop was not put back (an epoch counter, "
            "a loop that begins at 0)"
        ),
        first_step=min(last) + 1,
        first_tensor="the last step",
    )


def _judge_beside(logs: Logs, noise: set[str]) -> AuditReport | None:
    """Returns a report if a variable beside the state was lost for good."""
    resume = _Resume(logs.whole, logs.processes[-1], noise)
    if not resume.steps:
        return None
    end = differing(
        resume.steps[-1], _last_of(logs.whole, resume.steps[-1].step) or logs.whole[-1]
    )
    found = [
        suspect
        for suspect in suspects(
            at_restore=resume.at_restore(), after_step=end, noise=noise
        )
        if suspect.kind == VARIABLE and suspect.was_lost and suspect.name in end
    ]
    if not found:
        return None
    cause, message = cause_of_suspect(found[0])
    return AuditReport(
        is_exact=False,
        cause=cause,
        message=message,
        first_step=resume.step,
        first_tensor=found[0].name,
        suspects=tuple(s.name for s in found[:_NUM_SUSPECTS]),
    )


def _nothing_committed(first: Sequence[Record]) -> AuditReport:
    killed = first[-1].step if first else 0
    return AuditReport(
        is_exact=False,
        cause=Cause.NOTHING_COMMITTED,
        message=(
            f"nothing was committed before step {killed}, where the program was "
            f"killed; save more often, e.g. every {max(1, killed // 2)} steps, or kill "
            "later"
        ),
    )


def _pairs(
    whole: Sequence[Record], other: Sequence[Record]
) -> list[tuple[Record, Record]]:
    """Returns the records of the same steps of two runs."""
    known = {(r.kind, r.step, r.phase): r for r in whole}
    keys = [((r.kind, r.step, r.phase), r) for r in other]
    return [(known[key], record) for key, record in keys if key in known]


def _last_of(records: Sequence[Record], step: int) -> Record | None:
    """Returns the last record of a step, as a save had it."""
    found = [r for r in records if r.step == step]
    return found[-1] if found else None


def _is_alike(one: Record, other: Record) -> bool:
    keys = [key for key in one.state if key in other.state]
    return all(one.state[key] == other.state[key] for key in keys)


def _batches_of(resume: _Resume) -> list[str]:
    return [batch for record in resume.whole for batch in record.batches]


def _num_read(resume: _Resume) -> int:
    """Returns how many batches the uninterrupted run had read at the checkpoint."""
    return sum(len(r.batches) for r in resume.whole if r.step <= resume.step)


def _label(records: Sequence[Record], key: str) -> str:
    """Returns a key with the readable name of what it belongs to."""
    for record in records:
        if key in record.labels:
            return f"{record.labels[key]} ({key})"
    return key
