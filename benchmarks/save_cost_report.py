"""The tables that `save_cost.py` prints."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from save_cost_plan import Plan

Found = dict[str, Any]
Rounds = dict[str, list[Found]]

OURS = "ours"
NOT_A_BAR = "manager-async"
ASYNCHRONOUS_OR_TORCH = ("orbax", "torch", "dcp")
TITLES = {
    "ours": "resumable_tf",
    "manager": "CheckpointManager",
    "manager-async": "the same, async",
    "keras": "BackupAndRestore",
    "orbax": "Orbax async",
    "torch": "torch.save",
    "dcp": "DCP async_save",
}


def extra_mb(found: Found) -> float:
    return float(max(found[which]["extra_mb"] for which in ("first", "later")))


def throughput(found: Found) -> float:
    """Returns the share of a plain write's speed, until all is durable."""
    paused = found["paused"]
    return float(paused["plain_write_secs"] / paused["durable_secs"])


def of_later(key: str) -> Callable[[Found], float]:
    return lambda found: float(found["later"][key])


def of_paused(key: str) -> Callable[[Found], float]:
    return lambda found: float(found["paused"][key])


TRAINING_COLUMNS: dict[str, tuple[Callable[[Found], float], str]] = {
    "step, s": (of_later("step_secs"), ".3f"),
    "drift": (of_later("drift"), "+.1%"),
    "blocked, s": (of_later("blocked_secs"), ".3f"),
    "first time, s": (lambda found: found["first"]["blocked_secs"], ".3f"),
    "5 steps slower, s": (of_later("slowdown_5_secs"), ".2f"),
    "all steps slower, s": (of_later("slowdown_secs"), ".2f"),
    "cost, s": (of_later("total_secs"), ".2f"),
    "commit after, s": (of_later("commit_secs"), ".2f"),
    "left to fsync, s": (of_later("fsync_left_secs"), ".2f"),
}
OTHER_COLUMNS: dict[str, tuple[Callable[[Found], float], str]] = {
    "says done after, s": (of_paused("commit_secs"), ".2f"),
    "with fsync, s": (of_paused("durable_secs"), ".2f"),
    "plain write, s": (of_paused("plain_write_secs"), ".2f"),
    "share of its speed": (throughput, ".0%"),
    "extra memory, MB": (extra_mb, ",.0f"),
    "restore, s": (lambda found: found["restore_secs"], ".2f"),
}


def show_size(console: Console, plan: Plan, rounds: Rounds) -> None:
    """Prints all about one state."""
    if not rounds:
        return
    console.print(
        f"\n{plan.size}: {plan.state_bytes / 1e6:,.0f} MB in {plan.num_arrays:,} "
        f"arrays; a step has {plan.step_flop / 1e9:,.0f} GFLOP of products; "
        f"{max(map(len, rounds.values()))} rounds; medians, below them the range"
    )
    versions = sorted({found["version"] for of in rounds.values() for found in of})
    console.print("; ".join(versions))
    console.print(table_of("in training", TRAINING_COLUMNS, rounds))
    console.print(table_of("training paused", OTHER_COLUMNS, rounds))
    for line in ratio_lines(rounds):
        console.print(line)


def table_of(
    title: str, columns: dict[str, tuple[Callable[[Found], float], str]], rounds: Rounds
) -> Table:
    """Returns a table of medians, with the range by round."""
    table = Table(Column(title, no_wrap=True), *columns)
    for name in TITLES:
        if name in rounds:
            cells = [
                spread([pick(found) for found in rounds[name]], form)
                for pick, form in columns.values()
            ]
            table.add_row(TITLES[name], *cells)
    return table


def spread(values: Sequence[float], form: str) -> str:
    """Returns the median, and in a second line the range if there is one."""
    middle = f"{statistics.median(values):{form}}"
    if len(values) == 1:
        return middle
    return f"{middle}\n{min(values):{form}} to {max(values):{form}}"


def ratio_lines(rounds: Rounds) -> list[str]:
    """Returns how we compare with the best of the others, and what is aimed at."""
    if OURS not in rounds:
        return []
    others = [name for name in rounds if name not in (OURS, NOT_A_BAR)]
    limits = [name for name in others if name in ASYNCHRONOUS_OR_TORCH]
    step = statistics.median(of_later("step_secs")(found) for found in rounds[OURS])
    lines = [
        ratio_line("cost", of_later("total_secs"), others, rounds, "at most 0.7"),
        ratio_line("blocked", of_later("blocked_secs"), limits, rounds, "at most 0.5"),
        ratio_line(
            *("cost", of_later("total_secs"), [NOT_A_BAR], rounds),
            "reported, no aim",
        ),
    ]
    shares = [throughput(found) for found in rounds[OURS]]
    lines.append(
        f"write speed / plain write and fsync: {statistics.median(shares):.2f}; by "
        f"round {min(shares):.2f} to {max(shares):.2f} (aim: at least 0.8)"
    )
    return [line for line in lines if line] + [f"(our step: {step:.3f} s)"]


def ratio_line(
    what: str,
    pick: Callable[[Found], float],
    others: Sequence[str],
    rounds: Rounds,
    aim: str,
) -> str:
    """Returns our figure over the best other one; of medians, and by round."""
    present = [name for name in others if name in rounds]
    if not present:
        return ""

    def median(name: str) -> float:
        return statistics.median(pick(found) for found in rounds[name])

    best = min(present, key=median)
    if min(median(best), median(OURS)) <= 0:
        return (
            f"{what}: lost in the noise (ours {median(OURS):.3f} s, {TITLES[best]} "
            f"{median(best):.3f} s)"
        )
    pairs = zip(rounds[OURS], rounds[best], strict=False)
    ratios = [pick(ours) / pick(other) for ours, other in pairs]
    return (
        f"{what} / {TITLES[best]}: {median(OURS) / median(best):.2f} (medians); "
        f"by round {min(ratios):.2f} to {max(ratios):.2f} (aim: {aim})"
    )


def show_overhead(console: Console, name: str, found: Found) -> None:
    """Prints what saves cost a preset's training, for several periods."""
    first, *later = found["saves"]
    if not later:
        later = [first]
    step = statistics.median(save["step_secs"] for save in later)
    console.print(
        f"{name}: {found['num_parameters']:,} parameters, {step:.3f} s a step, "
        f"{len(later)} saves after a first one that blocked "
        f"{first['blocked_secs']:.3f} s and cost {first['total_secs']:.2f} s"
    )
    table = Table("one save", "median (range)")
    for title, key in (
        ("blocked, s", "blocked_secs"),
        ("slowdown of the steps until the commit, at least 5, s", "slowdown_secs"),
        ("cost, s", "total_secs"),
        ("commit after, s", "commit_secs"),
        ("drift of the step alone", "drift"),
    ):
        table.add_row(title, spread([save[key] for save in later], ".3f"))
    for period, aim in ((100, "0.5%"), (10, "5%")):
        shares = [save["total_secs"] / (period * save["step_secs"]) for save in later]
        title = f"overhead of a save every {period} steps (aim: at most {aim})"
        is_free = all(
            save["commit_secs"] < period * save["step_secs"] for save in later
        )
        note = "" if is_free else "\nsaves would wait for each other"
        table.add_row(title, spread(shares, ".2%") + note)
    console.print(table)
