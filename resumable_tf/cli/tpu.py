"""Checks for TPUs: whether a step compiles for a slice, whether this machine is ready.

resumable-tf tpu check --topology v5e:2x4 --preset base --batch-size 256
resumable-tf tpu doctor
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from models.config import PRESETS
from resumable_tf.cli.output import guarded
from resumable_tf.cli.tpu_report import report_values, show_findings, show_report
from resumable_tf.errors import EXIT_FAILED, EXIT_FINISHED, UsageError
from resumable_tf.tpu.check_report import CheckReport
from resumable_tf.tpu.compiler_environment import (
    DEFAULT_TIMEOUT_SECS,
    PINS,
    find_or_make,
)
from resumable_tf.tpu.doctor import FAIL, examine
from resumable_tf.tpu.doctor_facts import gather_facts
from resumable_tf.tpu.topology import Topology, parse_topology

tpu = typer.Typer(
    help="Checks for Cloud TPUs: the step, without a TPU, and the machine.",
    no_args_is_help=True,
)

_LARGE_VOCAB = 32_000


@tpu.command("check")
def check(
    step: Annotated[
        str | None,
        typer.Argument(
            help="MODULE:FUNCTION of a step of your own.", show_default=False
        ),
    ] = None,
    topology: Annotated[
        str, typer.Option(help="CHIP:AxB or CHIP:AxBxC; v2 to tpu7x.")
    ] = "v5e:2x4",
    preset: Annotated[
        str | None, typer.Option(help=f"The training script's: {', '.join(PRESETS)}.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows a step, over all replicas.")
    ] = None,
    row_length: Annotated[
        int | None,
        typer.Option(help="Tokens a row, of each side. [default: the preset's]"),
    ] = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(help="Vocabulary. [default: the preset's, or 32000]"),
    ] = None,
    compute_dtype: Annotated[
        str, typer.Option(help="Of the preset: bfloat16 or float32.")
    ] = "bfloat16",
    find_batch: Annotated[
        bool, typer.Option("--find-batch", help="Find the largest batch that fits.")
    ] = False,
    environment_dir: Annotated[
        str | None,
        typer.Option(
            help="Where the compiler's environment is kept. "
            "[default: RESUMABLE_TF_TPU_CHECK_DIR, or the user's cache]"
        ),
    ] = None,
    timeout_secs: Annotated[
        float, typer.Option(help="Most seconds of one compilation.")
    ] = DEFAULT_TIMEOUT_SECS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compiles a training step with the real TPU compiler, without a TPU.

    The compiler is installed by itself, once, into an environment of its own (1.3 GB;
    Python 3.11 or newer).

    A step of your own: FUNCTION is called with tf.distribute.get_strategy() as on a TPU
    and returns (step, inputs), where step(*inputs) calls strategy.run once, and inputs
    are tensors or tf.TensorSpec of what one replica gets. If it has a parameter
    batch_size, --batch-size and --find-batch work too.

    Exit codes: 0 it compiles and fits, 1 it does not, 2 wrong usage.
    """
    flags = dict(locals())

    def run(console: Console) -> int:
        slice_ = parse_topology(topology)
        label, for_batch, batch = _source(flags, slice_)
        return _check(console, flags, (slice_, label, for_batch, batch))

    sys.exit(guarded(run))


Source = tuple[str, Callable[[int | None], Any], int | None]


def _source(flags: dict[str, Any], topology: Topology) -> Source:
    """Returns a name for what is checked, what traces it, and the batch size.

    Raises:
        UsageError: If the flags do not fit together.
    """
    batch_size = flags["batch_size"]
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: it must be at least 1.")
    if (flags["step"] is None) == (flags["preset"] is None):
        raise UsageError(
            "name what to check: either --preset, or MODULE:FUNCTION of a step of "
            "your own."
        )
    if flags["preset"] is not None:
        source = _preset_source(flags)
    else:
        source = _own_source(flags, topology)
    rest = 0 if source[2] is None else source[2] % topology.num_replicas
    if rest:
        count = topology.num_replicas
        raise UsageError(
            f"--batch-size {source[2]} can't be divided by the {count} replicas of "
            f"{topology.name}.\nUse a multiple of {count}."
        )
    return source


def _preset_source(flags: dict[str, Any]) -> Source:
    """Returns the step of the training script."""
    import dataclasses

    _quieten_tensorflow()
    from resumable_tf.data.record_files import RowLayout
    from resumable_tf.training.config import TrainConfig
    from resumable_tf.training.program import (
        build_program,
        set_determinism,
        trace_program,
    )

    config = TrainConfig(
        run_dir="none",
        preset=flags["preset"],
        batch_size=flags["batch_size"],
        compute_dtype=flags["compute_dtype"],
    )
    recipe = config.recipe
    length = flags["row_length"] or recipe.row_length
    vocab_size = flags["vocab_size"] or recipe.vocab_size or _LARGE_VOCAB
    set_determinism(config)

    def for_batch(batch_size: int | None) -> Any:
        sized = dataclasses.replace(config, batch_size=batch_size)

        def trace(strategy: Any) -> None:
            model_config = sized.model_config(vocab_size)
            program = build_program(sized, model_config, strategy)
            trace_program(program, sized.global_batch_size, RowLayout(length, length))

        return trace

    label = (
        f"preset {recipe.name}, {config.compute_dtype}, rows of {length} + {length} "
        f"tokens, vocabulary {vocab_size}"
    )
    return label, for_batch, config.global_batch_size


def _own_source(flags: dict[str, Any], topology: Topology) -> Source:
    """Returns a step of the user's own.

    Raises:
        UsageError: If flags of the presets are given, or a batch size is missing.
    """
    for name in ("row_length", "vocab_size"):
        if flags[name] is not None:
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag} {flags[name]} has no effect without --preset. Leave it out."
            )
    _quieten_tensorflow()
    from resumable_tf.tpu.own_step import load_own_step

    own = load_own_step(flags["step"])
    batch_size = flags["batch_size"]
    if flags["find_batch"]:
        if not own.takes_batch_size:
            raise UsageError(
                f"--find-batch has no effect: {own.name} has no parameter batch_size."
                "\nAdd one, or leave the flag out."
            )
        batch_size = batch_size or topology.num_replicas
    own.for_batch(batch_size)
    return own.name, own.for_batch, batch_size


def _check(console: Console, flags: dict[str, Any], what: Any) -> int:
    """Checks, prints the report and returns the exit code."""
    from resumable_tf.tpu.check import check_step, find_batch

    topology, label, for_batch, batch_size = what
    environment = find_or_make(flags["environment_dir"])
    # Progress goes where it does not mix with JSON.
    status = Console(stderr=True)

    def check_batch(size: int | None) -> CheckReport:
        with status.status(f"compiling for {topology.name}, batch {size}"):
            report = check_step(
                for_batch(size),
                topology,
                environment,
                batch_size=size,
                timeout_secs=flags["timeout_secs"],
            )
        if flags["find_batch"]:
            verdict = "fits" if report.compiles else "does not fit"
            status.print(f"batch {size}: {verdict}", highlight=False)
        return report

    if flags["find_batch"]:
        report = find_batch(check_batch, topology, start=batch_size)
    else:
        report = check_batch(batch_size)
    if flags["as_json"]:
        values = report_values(report, label, is_largest=flags["find_batch"])
        console.print_json(json.dumps({**values, "compiler": list(PINS)}))
    else:
        show_report(console, report, label, is_largest=flags["find_batch"])
    return EXIT_FINISHED if report.compiles else EXIT_FAILED


@tpu.command("doctor")
def doctor(
    bucket: Annotated[
        str | None,
        typer.Option(help="Run directory or URL to write, read and delete a file in."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Says whether this machine is ready to train on a TPU, and what to mend.

    Exit codes: 0 nothing is wrong, 1 something is.
    """
    sys.exit(guarded(lambda console: _examine(console, bucket, as_json)))


def _examine(console: Console, bucket: str | None, as_json: bool) -> int:
    """Prints the findings and returns the exit code."""
    findings = examine(gather_facts(bucket=bucket))
    if as_json:
        console.print_json(json.dumps([finding._asdict() for finding in findings]))
    else:
        show_findings(console, findings)
    has_failed = any(finding.verdict == FAIL for finding in findings)
    return EXIT_FAILED if has_failed else EXIT_FINISHED


def _quieten_tensorflow() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A machine with a GPU must trace the same step.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
