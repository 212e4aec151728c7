"""Trains the English-to-German Transformer; run it again to continue.

    python scripts/train_translation.py --run-dir runs/demo --preset tiny

Exit codes: 0 finished, 75 stopped by a signal after a save (run it again), 2 wrong
usage, 69 devices or hosts are not there (run it again), 1 anything else.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from models.config import PRESETS
from resumable_tf.errors import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_PREEMPTED,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    DeviceError,
    HostLostError,
    MismatchError,
    ResumableError,
    UsageError,
)
from resumable_tf.training.cluster_task import cluster_task
from resumable_tf.training.grace import GRACE_SECS
from resumable_tf.training.places import PlaceDefaults, detect_place, place_defaults

_STARTED = time.monotonic()
_console = Console(stderr=True, highlight=False, soft_wrap=True)

Preset = Enum("Preset", {name: name for name in PRESETS}, type=str)
Dtype = Enum("Dtype", {name: name for name in ("float32", "bfloat16")}, type=str)
Strategy = Enum(
    "Strategy",
    {name: name for name in ("one", "mirrored", "multi_worker", "tpu")},
    type=str,
)


OnStorageError = Enum(
    "OnStorageError", {name: name for name in ("stop", "continue")}, type=str
)


def main(
    preset: Annotated[Preset, typer.Option(help="Sizes and recipe.")] = Preset["tiny"],
    run_dir: Annotated[
        str | None,
        typer.Option(help="Run directory or URL. [default: runs/embedded-PRESET]"),
    ] = None,
    data: Annotated[
        str,
        typer.Option(help="embedded, tfds:NAME/CONFIG, tsv:PATH or moses:EN,DE."),
    ] = "embedded",
    records: Annotated[
        str | None,
        typer.Option(
            help="Prepared records, made if missing. [default: RUN_DIR/records]"
        ),
    ] = None,
    stop_step: Annotated[
        int | None, typer.Option(help="Steps at which to end. [default: the preset's]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Packed rows a step. [default: the preset's]")
    ] = None,
    row_length: Annotated[
        int | None, typer.Option(help="Target tokens a row. [default: the preset's]")
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="SentencePiece pieces. [default: by corpus]")
    ] = None,
    dropout_rate: Annotated[
        float | None, typer.Option(help="Share dropped. [default: the preset's]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 1,
    compute_dtype: Annotated[Dtype, typer.Option(help="Of activations.")] = Dtype[
        "float32"
    ],
    strategy: Annotated[Strategy, typer.Option(help="Where to compute.")] = Strategy[
        "one"
    ],
    num_replicas: Annotated[
        int | None, typer.Option(help="Devices of --strategy mirrored.")
    ] = None,
    tpu: Annotated[
        str | None,
        typer.Option(
            help="local, a node's name, or grpc://HOST:PORT,... "
            "[default: TPU_NAME, or local]"
        ),
    ] = None,
    tpu_zone: Annotated[
        str | None, typer.Option(help="Of the node. [default: this machine's]")
    ] = None,
    gcp_project: Annotated[
        str | None, typer.Option(help="Of the node. [default: this machine's]")
    ] = None,
    steps_per_call: Annotated[
        int, typer.Option(help="Most steps in a compiled call.")
    ] = 10,
    save_every_steps: Annotated[
        str,
        typer.Option(
            metavar="INTEGER|auto",
            help="Save at multiples of this; auto: by what a save costs.",
        ),
    ] = "500",
    save_every_secs: Annotated[
        float | None,
        typer.Option(
            help="Save when this long has passed. [default: 300; none with "
            "--save-every-steps auto]"
        ),
    ] = None,
    keep_last: Annotated[int, typer.Option(help="Checkpoints to keep.")] = 3,
    fast_dir: Annotated[
        str | None,
        typer.Option(help="Local directory, as on a RAM disk, to save to more often."),
    ] = None,
    fast_every_steps: Annotated[
        int | None, typer.Option(help="Save there at multiples of this.")
    ] = None,
    on_storage_error: Annotated[
        OnStorageError,
        typer.Option(help="If a save fails: stop, or continue and try the next one."),
    ] = OnStorageError["stop"],
    eval_every_steps: Annotated[
        int | None, typer.Option(help="Validation loss at multiples of this.")
    ] = None,
    log_every_steps: Annotated[int, typer.Option(help="Steps a line of metrics.")] = 10,
    grace_secs: Annotated[
        float | None,
        typer.Option(
            help="Time to save in after a notice of preemption. [default: the place's, "
            "or 25]"
        ),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option(help="Use deterministic kernels.")
    ] = True,
    allow_batch_size_change: Annotated[
        bool,
        typer.Option(
            "--allow-batch-size-change",
            help="Go on with another batch size; run.json records it.",
        ),
    ] = False,
    place: Annotated[
        str | None,
        typer.Option(help="sagemaker, azureml, slurm or auto: fills in their folders."),
    ] = None,
) -> None:
    """Trains the English-to-German Transformer; run it again to continue."""
    settings = dict(locals())
    del settings["place"]
    where = _place(place, run_dir)
    settings["run_dir"] = run_dir or (
        where.run_dir if where else f"runs/embedded-{preset.value}"
    )
    if grace_secs is None:
        settings["grace_secs"] = (where and where.grace_secs) or GRACE_SECS
    settings["is_deterministic"] = settings.pop("deterministic")
    for name in ("preset", "compute_dtype", "strategy", "on_storage_error"):
        settings[name] = settings[name].value
    settings["save_every_steps"] = _steps_or_auto(save_every_steps)
    set_up_tensorflow()
    _set_up_logging()
    code = _run(settings)
    if code == EXIT_FINISHED and where is not None:
        _export(settings["run_dir"], where, records=settings["records"])
    raise SystemExit(code)


def _place(name: str | None, run_dir: str | None) -> PlaceDefaults | None:
    """Returns what the place says; ends the program if it can't be."""
    if name == "auto":
        name = detect_place(os.environ)
    if name is None:
        return None
    try:
        where = place_defaults(name, os.environ, run_dir=run_dir)
    except UsageError as error:
        _console.print(f"UsageError: {error}", markup=False)
        raise SystemExit(EXIT_USAGE) from None
    grace = (
        "no promised time" if where.grace_secs is None else f"{where.grace_secs:g} s"
    )
    _console.print(f"{name}: run directory {where.run_dir}; {grace} after SIGTERM")
    return where


def _export(run_dir: str, where: PlaceDefaults, *, records: str | None) -> None:
    """Becomes what puts the finished model where the place looks for it.

    As a child of this process it would find no memory on a GPU, all of which TensorFlow
    has taken here.
    """
    if where.export_dir is None or not cluster_task(os.environ).is_chief:
        return
    script = Path(__file__).with_name("export_model.py")
    flags = ["--run-dir", run_dir, "--output", where.export_dir]
    if records is not None:
        flags += ["--records", records]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(sys.executable, [sys.executable, str(script), *flags])


def _steps_or_auto(text: str) -> int | str:
    """Reads the value of --save-every-steps."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a number of steps nor auto",
            param_hint="--save-every-steps",
        ) from None


def set_up_tensorflow() -> None:
    """Sets what TensorFlow reads when it is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow takes oneDNN's kernels by itself on some processors only; on the
    # others they make a training step 1.18 times as fast.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def _set_up_logging() -> None:
    handler = RichHandler(console=_console, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("resumable_tf").setLevel(logging.INFO)


def _run(settings: dict[str, Any]) -> int:
    """Trains and returns the exit code."""
    from resumable_tf.checkpoint.storage_errors import describe_storage_error
    from resumable_tf.training.allocator import keep_freed_memory
    from resumable_tf.training.config import TrainConfig
    from resumable_tf.training.preemption import Preempted

    keep_freed_memory()
    try:
        config = TrainConfig(**settings)
        _check_tpu(config)
        from resumable_tf.training.run import train

        imported = time.monotonic() - _STARTED
        logging.getLogger("resumable_tf").info("imported in %.1f s", imported)
        result = train(config)
    except Preempted as stopped:
        _console.print(str(stopped))
        return EXIT_PREEMPTED
    except HostLostError as error:
        _console.print(f"HostLostError: {error}", markup=False)
        sys.stdout.flush()
        # While it ends, TensorFlow would wait for the host that is gone.
        os._exit(EXIT_UNAVAILABLE)
    except ResumableError as error:
        _console.print(f"{type(error).__name__}: {error}", markup=False)
        if isinstance(error, DeviceError):
            return EXIT_UNAVAILABLE
        return (
            EXIT_USAGE if isinstance(error, UsageError | MismatchError) else EXIT_FAILED
        )
    except OSError as error:
        name = type(error).__name__
        _console.print(f"{name}: {describe_storage_error(error)}", markup=False)
        return EXIT_FAILED
    if result.was_finished:
        _console.print(f"{result.run_dir} is already finished at step {result.step}.")
    else:
        _console.print(f"{result.run_dir}: finished at step {result.step}.")
    return 0


def _check_tpu(config: Any) -> None:
    """Looks for the TPU before TensorFlow is imported, which might end the process."""
    from resumable_tf.tpu.machine import (
        check_machine,
        find_machine,
        prepare_environment,
    )

    if config.tpu_settings is not None:
        prepare_environment(config.tpu_settings)
        check_machine(config.tpu_settings, find_machine())


if __name__ == "__main__":
    typer.run(main)
