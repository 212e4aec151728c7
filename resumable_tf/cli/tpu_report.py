"""Shows the reports of `tpu check` and `tpu doctor`.

show_report(console, report, "preset base", is_largest=False)
show_findings(console, examine(facts))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resumable_tf.tpu.check_report import (
    HOST_ONLY,
    CheckReport,
    Figures,
    lower_bounds,
)
from resumable_tf.tpu.chips import GIB
from resumable_tf.tpu.compiler_environment import PINS
from resumable_tf.tpu.doctor import FAIL, NOT_APPLICABLE, OK, WARN
from resumable_tf.tpu.doctor import Finding as MachineFinding

_MAX_ERROR_CHARACTERS = 1500


def report_values(
    report: CheckReport, label: str, *, is_largest: bool
) -> dict[str, Any]:
    """Returns a report as JSON values.

    Args:
        report: What was found.
        label: What was checked.
        is_largest: Whether its batch size is the largest that fits.
    """
    topology, figures = report.topology, report.figures
    values: dict[str, Any] = {
        "checked": label,
        "topology": topology.name,
        "num_chips": topology.num_chips,
        "num_replicas": topology.num_replicas,
        "batch_size": report.batch_size,
        "is_largest_batch": is_largest,
        "compiles": report.compiles,
        "error": report.error,
        "findings": [finding._asdict() for finding in report.findings],
        "usable_hbm_bytes": topology.chip.usable_hbm_bytes,
    }
    if figures is not None:
        bounds = lower_bounds(figures, topology.chip, topology.num_replicas)
        values |= dataclasses.asdict(figures)
        values["hbm_bytes"] = figures.hbm_bytes
        values["lower_bounds"] = dataclasses.asdict(bounds)
    return values


def show_report(
    console: Console, report: CheckReport, label: str, *, is_largest: bool
) -> None:
    """Prints a report as a table.

    Args:
        console: Where to.
        report: What was found.
        label: What was checked.
        is_largest: Whether its batch size is the largest that fits.
    """
    topology = report.topology
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("checked", escape(label))
    table.add_row(
        "slice",
        f"{topology.name}: {topology.num_chips} chips, {topology.num_replicas} "
        f"replicas, {topology.num_hosts} host(s)",
    )
    if report.batch_size is not None:
        note = " (the largest that fits)" if is_largest and report.compiles else ""
        table.add_row("batch", f"{report.batch_size} rows{note}")
    table.add_row("verdict", _verdict(report))
    if report.figures is not None:
        for name, text in _figure_rows(report, report.figures):
            table.add_row(name, text)
    for finding in report.findings:
        is_fatal = finding.kind == HOST_ONLY
        effect = "breaks" if is_fatal else "padded to its bound"
        table.add_row(
            finding.kind,
            escape(f"{finding.operation} ({effect})\n{finding.source}"),
        )
    table.add_row("compiler", f"{', '.join(PINS)}; default effort; nothing was run")
    if topology.chip.note:
        table.add_row("note", topology.chip.note)
    console.print(table)


def show_findings(console: Console, findings: Sequence[MachineFinding]) -> None:
    """Prints what the doctor found as a table.

    Args:
        console: Where to.
        findings: One of each check.
    """
    colours = {OK: "green", WARN: "yellow", FAIL: "red", NOT_APPLICABLE: "dim"}
    table = Table("check", "verdict", "found", "mend", box=box.SIMPLE)
    for name, verdict, found, mend in findings:
        colour = colours[verdict]
        table.add_row(name, f"[{colour}]{verdict}[/]", escape(found), escape(mend))
    console.print(table)


def _verdict(report: CheckReport) -> str:
    if report.error is None:
        return "[green]compiles and fits[/]"
    text = report.error
    if len(text) > _MAX_ERROR_CHARACTERS:
        text = text[:_MAX_ERROR_CHARACTERS] + " ..."
    kind = "does not fit" if report.is_out_of_memory else "does not compile"
    return f"[red]{kind}[/]\n{escape(text)}"


def _figure_rows(report: CheckReport, figures: Figures) -> list[tuple[str, str]]:
    """Returns the rows of a table with what the compiler says."""
    topology = report.topology
    chip = topology.chip
    bounds = lower_bounds(figures, chip, topology.num_replicas)
    links = "not published"
    if bounds.link_secs is not None:
        links = f"{_milliseconds(bounds.link_secs)} at the links' peak"
    needed, usable = figures.hbm_bytes / GIB, chip.usable_hbm_bytes / GIB
    arguments, temporary = figures.argument_bytes / GIB, figures.temporary_bytes / GIB
    rows = [
        (
            "memory",
            f"{needed:.2f} of {usable:.2f} GiB a device (variables and inputs "
            f"{arguments:.2f}, temporary {temporary:.2f}, code "
            f"{figures.code_bytes / GIB:.2f})",
        ),
        ("operations", f"{figures.flops / 1e9:,.1f} GFLOP a step and device"),
        (
            "lower bound",
            f"{_milliseconds(bounds.step_secs)} a step: arithmetic "
            f"{_milliseconds(bounds.compute_secs)}, memory "
            f"{_milliseconds(bounds.memory_secs)}, between chips {links}; from public "
            "peaks, real steps take longer",
        ),
    ]
    rows += [
        (
            kind,
            f"{collective.num_operations} operations, "
            f"{collective.size_bytes / 1e6:,.1f} MB a step and device",
        )
        for kind, collective in figures.collectives.items()
    ]
    return [*rows, ("compiled in", f"{figures.compile_secs:.1f} s")]


def _milliseconds(secs: float) -> str:
    return f"{secs * 1e3:.3g} ms"
