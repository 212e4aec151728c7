"""Compiles the presets `base` and `big` for TPU slices and prints the docs' table.

    python benchmarks/tpu_compile_table.py --out runs/tpu-check

One compilation after the other; what is in --out already is not compiled again, so that
it can be stopped and run again. It takes minutes for each row.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ROWS_PER_REPLICA = 32
TOPOLOGIES = {
    "v5e:2x4": 8,
    "v5e:16x16": 256,
    "v4:2x2x2": 8,
    "v5p:2x2x2": 8,
    "v6e:2x4": 8,
}
PRESETS = ("base", "big")
LARGEST_OF = ("base", "v5e:2x4")
GIB = 1 << 30
HEADER = (
    "| preset | slice | batch (rows) | verdict | memory a device, GiB "
    "| GFLOP a step and device | lower bound of a step, ms | all-reduce, MB |"
)


def check(preset: str, topology: str, batch_size: int, *, largest: bool) -> Any:
    """Runs the command and returns what it prints."""
    command = [
        *(sys.executable, "-m", "resumable_tf", "tpu", "check", "--json"),
        *("--preset", preset, "--topology", topology),
        *("--batch-size", str(batch_size)),
        *(["--find-batch"] if largest else []),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if not done.stdout.startswith("{"):
        raise SystemExit(f"{' '.join(command)} said:\n{done.stdout}")
    return json.loads(done.stdout)


def row(report: Any, preset: str) -> str:
    """Returns a line of the table."""
    usable = report["usable_hbm_bytes"] / GIB
    batch = str(report["batch_size"])
    if report["is_largest_batch"]:
        batch += " (the largest that fits)"
    if not report["compiles"]:
        error = report["error"].splitlines()[0][:160]
        cells = [f"does not: {error}", f"of {usable:.2f}", "", "", ""]
    else:
        reduced = report["collectives"]["all-reduce"]
        cells = [
            "compiles and fits",
            f"{report['hbm_bytes'] / GIB:.2f} of {usable:.2f}",
            f"{report['flops'] / 1e9:,.0f}",
            f"{max(filter(None, report['lower_bounds'].values())) * 1e3:.1f}",
            f"{reduced['size_bytes'] / 1e6:,.0f} in {reduced['num_operations']}",
        ]
    return "| " + " | ".join([f"`{preset}`", report["topology"], batch, *cells]) + " |"


def main(
    out: Annotated[Path, typer.Option(help="Directory of the reports.")],
) -> None:
    """Compiles what is missing and prints the table."""
    out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (preset, topology, num_replicas * ROWS_PER_REPLICA, False)
        for preset in PRESETS
        for topology, num_replicas in TOPOLOGIES.items()
    ]
    jobs.append((*LARGEST_OF, 8 * ROWS_PER_REPLICA, True))
    lines = [HEADER, "|---" * HEADER.count(" | ") + "|---|"]
    for preset, topology, batch_size, largest in jobs:
        name = f"{preset}-{topology.replace(':', '-')}{'-largest' if largest else ''}"
        path = out / f"{name}.json"
        if not path.exists():
            report = check(preset, topology, batch_size, largest=largest)
            path.write_text(json.dumps(report))
        lines.append(row(json.loads(path.read_text()), preset))
    typer.echo("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
