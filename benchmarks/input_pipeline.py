"""What the input pipeline delivers, against what training takes.

    python benchmarks/input_pipeline.py --preset tiny

Prints the tokens a second (source and target, padding not counted) that
`RecordDataset.from_step` delivers alone and those that the preset trains, their
ratio, and the time to the first batch at an early and at a very late step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

from our_training import OurTraining, count_tokens, open_dataset, set_threads
from rich.console import Console
from rich.table import Table

from models.config import preset

EARLY_STEP, LATE_STEP = 10, 1_000_000


def secs_to_first_batch(dataset: Any, step: int, *, repeats: int) -> list[float]:
    """Returns the seconds from the call of `from_step` to the first batch."""
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        next(iter(dataset.from_step(step)))
        found.append(time.perf_counter() - begun)
    return found


def delivered_rate(dataset: Any, *, num_batches: int, repeats: int) -> list[float]:
    """Returns the tokens a second of the pipeline alone, one figure a repeat."""
    tokens = sum(map(count_tokens, dataset.from_step(1).take(num_batches)))
    rates = []
    for _ in range(repeats):
        batches = iter(dataset.from_step(0).take(num_batches + 1))
        next(batches)
        begun = time.perf_counter()
        for _ in batches:
            pass
        rates.append(tokens / (time.perf_counter() - begun))
    return rates


def trained_rate(training: OurTraining, *, num_steps: int, repeats: int) -> list[float]:
    """Returns the tokens a second of training, after one call that compiles."""
    training.run(2)
    blocks = [training.run(num_steps) for _ in range(repeats)]
    return [block.tokens / block.secs for block in blocks]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--data", default="embedded")
    parser.add_argument("--records", help="prepared records; made if missing")
    parser.add_argument("--batches", type=int, default=2000, help="batches delivered")
    parser.add_argument("--steps", type=int, default=20, help="steps of a timed block")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    set_threads(args.threads)
    recipe = preset(args.preset)
    dataset = open_dataset(recipe, data=args.data, records=args.records)
    secs_to_first_batch(dataset, 0, repeats=1)  # TensorFlow's own start
    table = Table("", "median", "min", "max")

    def add(name: str, values: list[float], form: str) -> float:
        shown = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(form.format(value) for value in shown))
        return shown[0]

    for step in (EARLY_STEP, LATE_STEP):
        secs = secs_to_first_batch(dataset, step, repeats=args.repeats)
        add(f"first batch at step {step:,}, ms", [1000 * s for s in secs], "{:,.0f}")
    rates = delivered_rate(dataset, num_batches=args.batches, repeats=args.repeats)
    delivered = add("tokens/s delivered", rates, "{:,.0f}")
    training = OurTraining(recipe, dataset)
    rates = trained_rate(training, num_steps=args.steps, repeats=args.repeats)
    trained = add("tokens/s trained", rates, "{:,.0f}")
    console = Console(highlight=False, width=100)
    console.print(
        f"{recipe.name}: {dataset.num_rows:,} rows, {args.threads} threads, batches of "
        f"{recipe.batch_size} rows, {args.repeats} repeats"
    )
    console.print(table)
    console.print(f"delivered / trained: {delivered / trained:.0f}")


if __name__ == "__main__":
    main()
