"""Training throughput of our compiled step against the same model in PyTorch.

    python benchmarks/train_vs_pytorch.py --preset small --rounds 7
    python benchmarks/train_vs_pytorch.py --pytorch-python other-venv/bin/python

Both train in processes of their own, bound to the same cores and the same number of
threads, in alternating blocks (A B, B A, ...) of the same rows; while one computes,
the other stands still. Tokens are source and target tokens without padding.

`--batches packed` (the default) gives PyTorch the very same packed rows with
block-diagonal masks: both compute the same losses of the same tokens, so only the
implementations differ. `--batches bucketed` gives it the same pairs as padded batches
of similar lengths, what is common where rows are not packed. Which of the two suits
PyTorch better depends on the machine: compare with the better one.

By default `torch.nn.Transformer` is as it ships: it also drops attention weights and
inside the feed-forward layers. `--dropout paper` takes that out of it, since our model,
like the paper's, drops embeddings and residuals only: then both are the same function.

PyTorch runs as its users run it. Our training sets glibc's malloc to keep freed
memory; `--same-malloc` gives PyTorch these settings as well.

Run it on an idle machine. PyTorch's OpenMP threads wait by spinning, which is fast
when the cores are theirs and ten times slower when they are not;
`--pytorch-wait passive` lets them sleep.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blocks import MALLOC, Worker, WorkerError
from rich.console import Console
from rich.table import Table

from models.config import preset

HERE = Path(__file__).parent
OURS, PYTORCH = "resumable_tf", "PyTorch"
Rounds = list[dict[str, dict[str, Any]]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="small")
    parser.add_argument("--data", default="embedded")
    parser.add_argument("--records", help="prepared records; made if missing")
    parser.add_argument("--rounds", type=int, default=7, help="blocks of each side")
    parser.add_argument("--steps", type=int, default=20, help="steps of a block")
    parser.add_argument("--warmup", type=int, default=5, help="steps before timing")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batches", choices=["packed", "bucketed"], default="packed")
    parser.add_argument("--dropout", choices=["module", "paper"], default="module")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--pytorch-python", default=sys.executable)
    parser.add_argument(
        "--same-malloc", action="store_true", help="our malloc settings for PyTorch too"
    )
    parser.add_argument("--pytorch-wait", choices=["active", "passive"])
    return parser.parse_args()


def start_workers(args: argparse.Namespace, directory: str) -> list[Worker]:
    """Starts our side, which writes the batches, and then PyTorch's."""
    export, plan_path = f"{directory}/batches.npz", f"{directory}/plan.json"
    num_steps = args.warmup + args.rounds * args.steps
    command = [sys.executable, str(HERE / "our_training.py"), "--export", export]
    command += ["--preset", args.preset, "--data", args.data]
    command += ["--threads", str(args.threads), "--num-steps", str(num_steps)]
    command += ["--records", args.records] if args.records else []
    ours = Worker(OURS, command, environment=MALLOC)
    recipe = preset(args.preset)
    plan = {
        "sizes": asdict(recipe.model_config(ours.about["vocab_size"])),
        "adam": asdict(recipe.adam),
        "export": export,
        "batches": args.batches,
        "dropout": args.dropout,
        "compile": args.compile,
        "threads": args.threads,
    }
    Path(plan_path).write_text(json.dumps(plan), encoding="utf-8")
    # It says at each start that packed rows do not take its nested-tensor path.
    command = [args.pytorch_python, "-W", "ignore::UserWarning"]
    command += [str(HERE / "pytorch_training.py"), "--plan", plan_path]
    environment = {"OMP_NUM_THREADS": str(args.threads)}
    if args.same_malloc:
        environment |= MALLOC
    if args.pytorch_wait:
        environment["OMP_WAIT_POLICY"] = args.pytorch_wait
    try:
        pytorch = Worker(PYTORCH, command, environment=environment)
    except (OSError, WorkerError):
        ours.close()
        raise
    return [ours, pytorch]


def measure(workers: list[Worker], args: argparse.Namespace) -> Rounds:
    """Returns the blocks of each round, after a warm-up."""
    for worker in workers:
        worker.run(args.warmup)
    rounds = []
    for index in range(args.rounds):
        order = workers if index % 2 == 0 else workers[::-1]
        rounds.append({worker.name: worker.run(args.steps) for worker in order})
    return rounds


def report(console: Console, workers: list[Worker], rounds: Rounds) -> None:
    """Prints a line for each side, and the ratio."""
    table = Table("", "tokens/s (median)", "min", "max", "ms a step", "MB", "last loss")
    rates: dict[str, list[float]] = {}
    for worker in workers:
        blocks = [of_round[worker.name] for of_round in rounds]
        rate = [block["tokens"] / block["secs"] for block in blocks]
        rates[worker.name] = rate
        step = statistics.median(1000 * b["secs"] / b["steps"] for b in blocks)
        table.add_row(
            worker.name,
            f"{statistics.median(rate):,.0f}",
            f"{min(rate):,.0f}",
            f"{max(rate):,.0f}",
            f"{step:,.0f}",
            f"{blocks[-1]['peak_mb']:,.0f}",
            f"{blocks[-1]['loss']:.3f}",
        )
    console.print(table)
    pairs = zip(rates[OURS], rates[PYTORCH], strict=True)
    ratios = sorted(ours / pytorch for ours, pytorch in pairs)
    medians = statistics.median(rates[OURS]) / statistics.median(rates[PYTORCH])
    console.print(
        f"{OURS} / {PYTORCH}: {medians:.2f} (medians); by round "
        f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    )


def warn_if_busy(console: Console, num_threads: int) -> None:
    """Says so when other processes computed at the same time."""
    load = os.getloadavg()[0]
    if load > num_threads + 0.5:
        console.print(
            f"The load was {load:.1f} with {num_threads} threads: other processes "
            "computed too, and these figures compare little."
        )


def main() -> None:
    args = parse_arguments()
    console = Console(highlight=False, width=100)
    with tempfile.TemporaryDirectory() as directory:
        try:
            workers = start_workers(args, directory)
        except (OSError, WorkerError) as error:
            console.print(f"can't compare: {error}")
            raise SystemExit(1) from error
        try:
            for worker in workers:
                about = worker.about
                console.print(
                    f"{worker.name}: {about['version']}, "
                    f"{about['num_parameters']:,} parameters"
                )
            console.print(
                f"{args.preset}; for PyTorch {args.batches} batches and dropout of the "
                f"{args.dropout}; {args.threads} threads, {args.rounds} rounds of "
                f"{args.steps} steps each"
            )
            report(console, workers, measure(workers, args))
            warn_if_busy(console, args.threads)
        finally:
            for worker in workers:
                worker.close()


if __name__ == "__main__":
    main()
