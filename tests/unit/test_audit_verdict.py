"""From logs to a verdict: each cause, told by what differs and when."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from resumable_tf.auditing.batch_order import find_shift
from resumable_tf.auditing.log import (
    EPOCH,
    RESTORED,
    START,
    STEP,
    Record,
    append,
    read_log,
)
from resumable_tf.auditing.processes import audit_command
from resumable_tf.auditing.report import AuditReport, Cause
from resumable_tf.auditing.verdict import Logs, judge
from resumable_tf.errors import UsageError

SAVED, KILLED, LAST = 4, 6, 9


def at(step: int, **live: tuple[str, str]) -> Record:
    """Returns the record of a step of the run that nothing has interrupted."""
    return Record(
        kind=STEP if step else START,
        step=step,
        state={"weights": f"w{step}", "slots": f"s{step}"},
        labels={} if step else {"weights": "model: dense/kernel"},
        live=live,
        batches=[f"b{step}"] if step else [],
    )


def whole() -> list[Record]:
    return [at(step) for step in range(LAST + 1)]


def restored(step: int = SAVED, **changes: Any) -> Record:
    return dataclasses.replace(at(step, **changes), kind=RESTORED, batches=[])


def resumed(**changes: Any) -> list[Record]:
    """Returns a resumed run that is exact but for changes of its later records."""
    later = [at(step) for step in range(SAVED + 1, LAST + 1)]
    return [restored(), *(dataclasses.replace(r, **changes) for r in later)]


def judged(last: list[Record], **logs: Any) -> AuditReport:
    killed = whole()[: KILLED + 1]
    return judge(Logs(**{"whole": whole(), "processes": [killed, last], **logs}))


def test_equal_logs_are_exact_and_say_what_was_compared() -> None:
    report = judged(resumed())
    assert report.is_exact and report.cause is None
    assert (report.resumed_from, report.num_tensors, report.num_steps) == ((4,), 2, 5)


def test_the_first_tensor_and_step_are_named_with_their_readable_name() -> None:
    report = judged(resumed(state={"weights": "other", "slots": "other"}))
    assert (report.first_step, report.is_exact) == (5, False)
    assert report.first_tensor == "model: dense/kernel (weights)"
    assert report.cause is Cause.UNKNOWN and not report.is_certain


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("random", Cause.RANDOM),
        ("variable", Cause.VARIABLE),
        ("value", Cause.VALUE),
    ],
)
def test_what_was_not_put_back_is_the_cause(kind: str, cause: Cause) -> None:
    full = [at(step, rng=(kind, f"r{step}")) for step in range(LAST + 1)]
    last = [
        restored(rng=(kind, "r0")),
        *(
            dataclasses.replace(
                at(step, rng=(kind, f"r{step - SAVED}")), state={"weights": "other"}
            )
            for step in range(SAVED + 1, LAST + 1)
        ),
    ]
    report = judge(Logs(full, [full[: KILLED + 1], last]))
    assert (report.cause, report.suspects, report.is_certain) == (cause, ("rng",), True)
    assert report.message.startswith("rng was not put back. ")


def test_what_differs_without_an_interruption_is_no_suspect() -> None:
    full = [at(step, now=("value", f"t{step}")) for step in range(LAST + 1)]
    killed = [at(step, now=("value", f"u{step}")) for step in range(KILLED + 1)]
    last = resumed(state={"weights": "other"}, live={"now": ("value", "v")})
    last[0] = restored(now=("value", "v"))
    report = judge(Logs(full, [killed, last]))
    assert (report.cause, report.suspects) == (Cause.UNKNOWN, ())


def test_a_buffer_that_is_emptied_in_the_next_step_is_named() -> None:
    full = [at(step, sum=("variable", f"m{step % 5}")) for step in range(LAST + 1)]
    last = [
        restored(sum=("variable", "m0")),
        dataclasses.replace(at(5, sum=("variable", "m0")), state={"weights": "other"}),
    ]
    report = judge(Logs(full, [full[: KILLED + 1], last]))
    assert (report.cause, report.suspects) == (Cause.VARIABLE, ("sum",))


def test_what_training_does_not_move_was_not_lost() -> None:
    full = [
        at(step, rng=("random", "r"), rate=("value", f"v{step}"))
        for step in range(LAST + 1)
    ]
    live = {"rng": ("random", "x"), "rate": ("value", "v0")}
    last = [
        restored(**live),
        dataclasses.replace(at(5, **live), state={"weights": "other"}),
    ]
    report = judge(Logs(full, [full[: KILLED + 1], last]))
    assert (report.cause, report.suspects) == (Cause.VALUE, ("rate", "rng"))


def test_a_variable_that_is_lost_for_good_counts_although_nothing_follows() -> None:
    full = [at(step, mean=("variable", f"m{step}")) for step in range(LAST + 1)]
    last = [restored(mean=("variable", "m0"))]
    last += [
        at(step, mean=("variable", f"x{step}")) for step in range(SAVED + 1, LAST + 1)
    ]
    report = judge(Logs(full, [full[: KILLED + 1], last]))
    assert (report.cause, report.first_tensor) == (Cause.VARIABLE, "mean")
    healed = [*last[:-1], full[-1]]
    assert judge(Logs(full, [full[: KILLED + 1], healed])).is_exact


def test_runs_that_differ_before_the_kill_are_not_deterministic() -> None:
    changed = dataclasses.replace(at(2), batches=["x"], state={"weights": "other"})
    killed = [*whole()[:2], changed]
    report = judged(resumed(), processes=[killed, resumed()])
    assert report.cause is Cause.NOT_DETERMINISTIC
    assert (report.first_step, report.first_tensor) == (
        2,
        "model: dense/kernel (weights)",
    )
    assert (
        "Give shuffle and every random generator of the data a seed" in report.message
    )
    killed = [dataclasses.replace(at(0), state={"weights": "other", "slots": "s0"})]
    report = judged(resumed(), processes=[killed, resumed()])
    assert "before the first step" in report.message
    killed = [*whole()[:2], dataclasses.replace(at(2), state={"weights": "other"})]
    report = judged(resumed(), processes=[killed, resumed()])
    assert "enable_op_determinism" in report.message


def test_another_batch_counts_only_if_a_tensor_depends_on_it() -> None:
    assert judged(resumed(batches=["looked at, not trained on"])).is_exact


def test_a_second_uninterrupted_run_shows_what_differs_after_the_kill() -> None:
    last = resumed(state={"weights": "other"})
    again = [*whole()[:-1], dataclasses.replace(at(LAST), state={"weights": "x"})]
    assert judged(last).cause is Cause.UNKNOWN
    assert judged(last, again=again).cause is Cause.NOT_DETERMINISTIC


def test_another_number_of_replicas_is_the_cause_of_other_sums() -> None:
    last = [dataclasses.replace(r, num_replicas=2) for r in resumed(state={})]
    report = judged(last)
    assert report.cause is Cause.TOPOLOGY
    assert "had 1 replicas and this one 2" in report.message


@pytest.mark.parametrize(
    ("first", "cause", "words"),
    [
        (1, Cause.DATA, "that of place 0 instead of 4"),
        (3, Cause.DATA, "that of place 2 instead of 4"),
        (4, Cause.OFF_BY_ONE, "that of place 3, and 4 comes next"),
        (6, Cause.OFF_BY_ONE, "that of place 5, and 4 comes next"),
        (60, Cause.DATA, "in another order"),
    ],
)
def test_the_place_of_the_first_batch_tells_what_went_wrong(
    first: int, cause: Cause, words: str
) -> None:
    last = [restored()]
    for index, step in enumerate(range(SAVED + 1, LAST + 1)):
        record = dataclasses.replace(at(step), batches=[f"b{first + index}"])
        last.append(dataclasses.replace(record, state={"weights": "other"}))
    report = judged(last)
    assert report.cause is cause
    assert words in report.message


def test_a_step_that_is_trained_again_is_off_by_one() -> None:
    last = [restored()]
    last += [
        dataclasses.replace(at(step), state={"weights": "twice"})
        for step in range(SAVED, LAST + 1)
    ]
    report = judged(last)
    assert report.cause is Cause.OFF_BY_ONE
    assert "trained step 4 once more" in report.message


def test_a_checkpoint_of_the_step_before_is_off_by_one() -> None:
    last = resumed()
    last[0] = dataclasses.replace(restored(), state=at(SAVED - 1).state)
    report = judged(last)
    assert report.cause is Cause.OFF_BY_ONE
    assert "holds the state after step 3" in report.message
    last[0] = dataclasses.replace(restored(), state={"weights": "w4", "slots": "x"})
    report = judged(last)
    assert (report.cause, report.first_tensor) == (Cause.RESTORE, "slots")


def test_an_epochs_end_is_what_a_checkpoint_there_is_compared_with() -> None:
    end = dataclasses.replace(
        at(SAVED), phase=EPOCH, state={"weights": "w4", "slots": "reset"}
    )
    full = [*whole()[: SAVED + 1], end, *whole()[SAVED + 1 :]]
    last = resumed()
    last[0] = dataclasses.replace(restored(), state=end.state)
    assert judged(last, whole=full).is_exact


def test_a_kill_before_any_checkpoint_says_how_often_to_save() -> None:
    report = judged(whole())
    assert report.cause is Cause.NOTHING_COMMITTED
    assert "nothing was committed before step 6" in report.message
    assert "every 3 steps" in report.message


def test_a_run_that_ends_elsewhere_is_not_exact() -> None:
    report = judged(resumed()[:-2])
    assert not report.is_exact
    assert "ended at step 9, the resumed one at step 7" in report.message


def test_several_resumes_are_all_compared() -> None:
    second = [restored(5), *(at(step) for step in range(6, LAST + 1))]
    killed = whole()[: KILLED + 1]
    report = judged([], processes=[killed, resumed()[:3], second])
    assert report.is_exact
    assert (report.resumed_from, report.num_steps) == ((4, 5), 6)


def test_a_shift_is_only_seen_where_batches_differ() -> None:
    assert find_shift(["a", "b", "c"], ["b", "c"], 1) is None
    assert find_shift([], [], 0) is None
    shift = find_shift(["a", "b", "a", "b"], ["a"], 1)
    assert shift is not None and shift.found == 0


def test_a_log_is_read_up_to_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append(path, at(1, rng=("random", "r")))
    append(path, at(2))
    with path.open("a") as file:
        file.write('{"kind": "st')
    first, second = read_log(path)
    assert (first.step, second.step) == (1, 2)
    assert list(first.live["rng"]) == ["random", "r"]
    assert read_log(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("kills", "steps", "words"),
    [([], 20, "positive"), ([9, 3], 20, "ascending"), ([20], 20, "nothing to compare")],
)
def test_numbers_that_cannot_work_are_refused(
    kills: list[int], steps: int, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        audit_command(["true"], kill_at=kills, steps=steps, directory=tmp_path / "new")


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        audit_command(["true"], kill_at=[1], steps=2, directory=tmp_path)


def test_a_program_without_checkpoints_or_that_fails_says_so(tmp_path: Path) -> None:
    report = audit_command(["true"], kill_at=[1], steps=2, directory=tmp_path / "one")
    assert report.cause is Cause.FAILED
    assert "never came to a Checkpointer" in report.message
    command = ["sh", "-c", "echo broken in {run_dir}; exit 3"]
    report = audit_command(command, kill_at=[1], steps=2, directory=tmp_path / "two")
    assert "ended with code 3" in report.message
    assert f"broken in {tmp_path}/two/whole" in report.message
