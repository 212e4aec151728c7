"""What a save costs a training, here and with what others ship.

    python benchmarks/save_cost.py --torch-python PATH --jax-python PATH
    python benchmarks/save_cost.py --sizes 50MB many --peers ours manager --rounds 5
    python benchmarks/save_cost.py --preset small

The cost of a save is the time that it blocks the training, plus what the steps lose
while it is written: the writer and copy-on-write take cores and memory from them. So
every peer runs a training, and all its steps are timed.

**The states.** The same number of float32 arrays of the same shapes for all: the
parameters of a Transformer (Vaswani et al. 2017, table 3) and Adam's two moments, plus
the optimizer's counters.

    50MB    2+2 blocks of width 256, 1,900 pieces: 183 arrays
    725MB   "base": 6+6 blocks of width 512, 32,000 pieces: 543 arrays
    3GB     "big": 6+6 blocks of width 1024, 72,000 pieces: 543 arrays
    many    50 MB in 1,998 arrays of 79 x 79
    1MB     for the test of this script

**The step.** `--products` products of 1024 x 1024 matrices, on all cores, then Adam on
every parameter, whose gradient is 0.01 of the parameter plus the products' mean: every
array changes at every step. The products and the updates are the same everywhere; what
they take is the framework's, so the step time is printed with each figure. TensorFlow
peers use one kernel a variable (`--optimizer fused`), as this project does when it
trains and as PyTorch does here (`fused=True`), or Keras' own Adam (`--optimizer
keras`). JAX donates its state to the step. Threads and malloc are as each ships.

**A save in training.** Steps alone, the save, steps until the checkpoint is whole and
at least 5, steps alone again. *Blocked* is the call that saves. *Slowdown* is what the
steps beside the save took more than as many steps alone (the mean of the medians
before and after). *Cost* is their sum. `drift` is how much the steps alone differ after
and before: where it is not small against the cost, the machine was not idle.
Each process saves twice so: the first save, in which much is traced and allocated, is
told apart from the later one, which all other columns are about. Extra memory is the
peak (VmHWM) beside the save less the peak of the steps alone, the larger of both saves.

**Checked.** The first save is restored and must equal the state in the moment of the
save, though training went on while it was written; and the steps must have changed it.

**Restore** is into built live objects in the same process, from the disk: the files are
dropped from the page cache first, as they are missing there on a new machine.
Verification is as each ships (ours reads every byte of every file). JAX has no live
objects; it gets new arrays. On a virtual machine the memory of files that were in the
page cache before is at hand, and fresh memory, which ours needs here, is dear.

**Training paused.** Seconds from the save to the commit with nothing else running; the
same with fsync of all files after it, for those that are not durable when they say they
are done; and one file of as many bytes written in pieces of 64 MB and fsynced, before
and after the save (the mean). `left to fsync`, in the first table, is the same question
in training: what an fsync took after the steps.

The peers are called as their documentation says: `tf.train.CheckpointManager` as it
ships and with `experimental_enable_async_checkpoint`; Keras' `BackupAndRestore` inside
`fit`, which saves at one batch's end; Orbax' `CheckpointManager`, asynchronous, with
`StandardSave`; `torch.save` of both state dicts; DCP `async_save` of `get_state_dict`,
in a single process without a process group. Of ours, `keep_freed_memory` is
called before training, as docs/saving.md advises; nothing else is tuned.

Rounds interleave the peers, each in a process of its own that ends before the next one
starts; the order turns by one each round. `os.sync()` precedes every measurement.
`--directory` needs four times the largest state, on a disk: in memory (tmpfs) an fsync
means nothing. All files are deleted. A process may hold three times its state in
memory. Peers that are not
installed are left out. This needs Linux.

`--preset` measures the real training of a preset instead, 100 steps of which take
minutes: the cost of one save in the running training, several times, and from it the
share of `cost / (N * step time)` for a save every N steps.

Run it on an idle machine. Our writer gives way to everything else that runs (nice 10):
beside other programs its commits come late, and more steps lie beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blocks import MALLOC
from rich.console import Console
from save_cost_plan import SIZES, Plan
from save_cost_report import show_overhead, show_size

HERE = Path(__file__).parent


class PeerCommand(NamedTuple):
    """How a peer is started.

    Attributes:
        file: Its script in this directory.
        flags: What else it needs.
        python: The option that names its interpreter, empty for this one.
        packages: What `pip install` needs to know.
    """

    file: str
    flags: Sequence[str] = ()
    python: str = ""
    packages: str = ""


TORCH = {"python": "torch_python", "packages": "torch==2.13.0 numpy"}
PEERS = {
    "ours": PeerCommand("save_cost_ours.py"),
    "manager": PeerCommand("save_cost_checkpoint_manager.py"),
    "manager-async": PeerCommand("save_cost_checkpoint_manager.py", ["--async"]),
    "keras": PeerCommand("save_cost_keras.py"),
    "orbax": PeerCommand(
        "save_cost_orbax.py",
        python="jax_python",
        packages="orbax-checkpoint==0.12.8 jax==0.10.2",
    ),
    "torch": PeerCommand("save_cost_torch.py", **TORCH),
    "dcp": PeerCommand("save_cost_torch.py", ["--dcp"], **TORCH),
}


class PeerError(RuntimeError):
    """A peer's process failed."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=["50MB", "725MB", "3GB"])
    add("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    add("--rounds", type=int, default=3, help="processes of each peer and size")
    add("--steps", type=int, default=5, help="least number of steps after a save")
    add("--products", type=int, default=24, help="matrix products of a step")
    add("--optimizer", choices=["fused", "keras"], default="fused")
    add("--directory", default="runs", help="where to save")
    add("--torch-python", default=sys.executable, help="an interpreter with torch")
    add("--jax-python", default=sys.executable, help="one with jax and Orbax")
    add("--timeout-secs", type=float, default=1800, help="for one process")
    add("--json", help="write all figures there, after each process")
    add("--preset", help="measure the real training of this preset instead")
    add("--records", help="of the preset; made if missing")
    add("--saves", type=int, default=7, help="with --preset: saves to measure")
    return parser.parse_args()


def call(
    command: Sequence[str],
    *,
    timeout_secs: float,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Runs a process and returns what it printed in its last line.

    Args:
        command: The interpreter, the script and its arguments.
        timeout_secs: How long it may take.
        environment: What it gets besides ours.

    Raises:
        PeerError: If it failed; with the end of what it said.
    """
    python_path = os.pathsep.join(
        filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")])
    )
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": python_path, **(environment or {})},
            timeout=timeout_secs,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{command[1]} took more than {timeout_secs} s") from error
    if ended.returncode:
        raise PeerError(f"{command[1]} failed: {ended.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


@contextlib.contextmanager
def own_directory(args: argparse.Namespace) -> Iterator[str]:
    """Yields an empty directory where the states go, and deletes it with them."""
    os.makedirs(args.directory, exist_ok=True)
    directory = tempfile.mkdtemp(
        prefix="save-cost-", dir=os.path.abspath(args.directory)
    )
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def measure_once(name: str, size: str, args: argparse.Namespace) -> dict[str, Any]:
    """Returns one peer's figures of one process."""
    peer = PEERS[name]
    python = getattr(args, peer.python) if peer.python else sys.executable
    with own_directory(args) as directory:
        plan = Plan(
            size=size,
            directory=f"{directory}/run",
            num_steps=args.steps,
            num_products=args.products,
            optimizer=args.optimizer,
        )
        plan.write(f"{directory}/plan.json")
        command = [python, str(HERE / peer.file), "--plan", f"{directory}/plan.json"]
        return call([*command, *peer.flags], timeout_secs=args.timeout_secs)


class Measurements:
    """All figures so far, in memory and in the file of `--json`."""

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        self._args, self._console = args, console
        self._left_out: set[str] = set()
        self.has_failed = False
        self.rounds: dict[str, dict[str, list[dict[str, Any]]]] = {
            size: {} for size in args.sizes
        }

    def run_round(self, size: str, index: int) -> None:
        """Measures each peer once; the order turns by one each round."""
        names = self._args.peers
        turn = index % len(names)
        for name in [*names[turn:], *names[:turn]]:
            if name not in self._left_out:
                self._run_one(name, size)

    def _run_one(self, name: str, size: str) -> None:
        try:
            found = measure_once(name, size, self._args)
        except PeerError as error:
            self.has_failed = True
            self._console.print(f"{name}, {size}: {error}", style="red")
            return
        if found.get("is_missing"):
            self._left_out.add(name)
            python = getattr(self._args, PEERS[name].python)
            packages = PEERS[name].packages
            self._console.print(
                f"{name} is left out: not installed for {python}. Install it there "
                f"(pip install {packages}), or name an interpreter that has it: "
                f"--{PEERS[name].python.replace('_', '-')} PATH."
            )
            return
        self.rounds[size].setdefault(name, []).append(found)
        load = os.getloadavg()[0]
        self._console.print(f"{name}, {size}: measured; load {load:.1f}")
        write_json(self._args, self.rounds)


def write_json(args: argparse.Namespace, figures: Any) -> None:
    """Writes the figures, with the arguments that they were measured with."""
    if args.json:
        text = json.dumps({"arguments": vars(args), "figures": figures}, indent=1)
        Path(args.json).write_text(text, encoding="utf-8")


def compare(args: argparse.Namespace, console: Console) -> bool:
    """Measures and prints the peers side by side; returns whether all worked."""
    measurements = Measurements(args, console)
    for index in range(args.rounds):
        for size in args.sizes:
            measurements.run_round(size, index)
    for size in args.sizes:
        plan = Plan(size=size, directory="", num_products=args.products)
        show_size(console, plan, measurements.rounds[size])
    return not measurements.has_failed


def measure_preset(args: argparse.Namespace, console: Console) -> bool:
    """Measures and prints what saves cost a preset; returns whether it worked."""
    records = args.records or f"runs/benchmark-records-{args.preset}"
    with own_directory(args) as directory:
        command = [sys.executable, str(HERE / "save_cost_preset.py")]
        command += ["--preset", args.preset, "--records", records]
        command += ["--saves", str(args.saves), "--directory", f"{directory}/run"]
        try:
            found = call(command, timeout_secs=args.timeout_secs, environment=MALLOC)
        except PeerError as error:
            console.print(str(error), style="red")
            return False
    write_json(args, found)
    show_overhead(console, args.preset, found)
    return True


def main() -> None:
    args = parse_arguments()
    console = Console(highlight=False, width=120, soft_wrap=True, markup=False)
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    if args.preset:
        has_worked = measure_preset(args, console)
    else:
        has_worked = compare(args, console)
    raise SystemExit(0 if has_worked else 1)


if __name__ == "__main__":
    main()
