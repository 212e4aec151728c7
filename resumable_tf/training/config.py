"""The settings of a training run.

    config = TrainConfig(run_dir="runs/demo", preset="tiny", stop_step=200)
    config.fingerprinted(...)       # what a resume must agree with

Settings that change the result are part of the run's fingerprint: another value is
refused. Settings that only say when to stop, save, report or where to compute may
differ from one start to the next.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from models import Recipe, TransformerConfig, preset
from resumable_tf.checkpoint.fast_tier import FastTier
from resumable_tf.checkpoint.options import OnStorageError, SaveOptions
from resumable_tf.errors import UsageError
from resumable_tf.storage import path_text
from resumable_tf.tpu.machine import TpuSettings, settings_from
from resumable_tf.training.grace import GRACE_SECS

_SAVE_EVERY_SECS = 300.0
_MOST = 2**31
_SEEDS = 2**32
"""NumPy takes no more."""


@dataclass(frozen=True)
class TrainConfig:
    """What `train` does. None means: as the preset has it.

    Attributes:
        run_dir: The run's directory; local or a URL.
        data: `embedded`, `tfds:NAME/CONFIG`, `tsv:PATH` or `moses:EN,DE`.
        records: Directory of the prepared records; `<run_dir>/records` if None.
        preset: `tiny`, `small`, `base` or `big`.
        stop_step: Completed steps at which training ends.
        batch_size: Packed rows a step, over all replicas.
        row_length: Target tokens of a packed row.
        vocab_size: SentencePiece pieces; 8,000, or 32,000 for a large corpus, if
            neither this nor the preset says so.
        dropout_rate: Share of activations dropped, 0 to 1.
        seed: Seed of initial values, data order and dropout.
        compute_dtype: `float32` or `bfloat16`.
        strategy: `one`, `mirrored`, `multi_worker` or `tpu`.
        num_replicas: Devices of `mirrored`.
        tpu: Which one, for `tpu`: `local`, a node's name or `grpc://HOST:PORT,...`;
            the environment's TPU_NAME, or else `local`, if None.
        tpu_zone: Of the node; this machine's own if None.
        gcp_project: Of the node; this machine's own if None.
        steps_per_call: Most steps in one compiled call.
        save_every_steps: Save at multiples of this; "auto" chooses the interval from
            what a save costs; never if None.
        save_every_secs: Also save when this long has passed since the last save; 300
            if None, but never if `save_every_steps` is "auto".
        keep_last: Checkpoints to keep.
        fast_dir: A local directory, such as one on a RAM disk, to save to more often
            than to `run_dir`; none if None.
        fast_every_steps: Save there at multiples of this.
        on_storage_error: Whether a save that fails because of the storage ends the
            training, `stop`, or is tried again when the next one is due, `continue`.
        eval_every_steps: Validation loss at multiples of this; only at the end if
            None.
        log_every_steps: One line of metrics for each so many steps.
        is_deterministic: TensorFlow's deterministic kernels.
        allow_batch_size_change: Whether `batch_size` may be another than the one that
            the run was begun with; recorded in run.json.
        grace_secs: Time to save in when the machine is about to go.
    """

    run_dir: str
    data: str = "embedded"
    records: str | None = None
    preset: str = "tiny"
    stop_step: int | None = None
    batch_size: int | None = None
    row_length: int | None = None
    vocab_size: int | None = None
    dropout_rate: float | None = None
    seed: int = 1
    compute_dtype: str = "float32"
    strategy: str = "one"
    num_replicas: int | None = None
    tpu: str | None = None
    tpu_zone: str | None = None
    gcp_project: str | None = None
    steps_per_call: int = 10
    save_every_steps: int | Literal["auto"] | None = 500
    save_every_secs: float | None = None
    keep_last: int = 3
    fast_dir: str | None = None
    fast_every_steps: int | None = None
    on_storage_error: OnStorageError = "stop"
    eval_every_steps: int | None = None
    log_every_steps: int = 10
    is_deterministic: bool = True
    allow_batch_size_change: bool = False
    grace_secs: float = GRACE_SECS

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UsageError: If one can't work; it names the flag.
        """
        for name in ("run_dir", "data", "records", "fast_dir"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, path_text(value))
        if not self.run_dir:
            raise UsageError("--run-dir is empty; name a directory or a URL.")
        for name in (
            "stop_step",
            "batch_size",
            "num_replicas",
            "row_length",
            "vocab_size",
            "steps_per_call",
            "save_every_steps",
            "save_every_secs",
            "keep_last",
            "fast_every_steps",
            "eval_every_steps",
            "log_every_steps",
        ):
            value = getattr(self, name)
            if name == "save_every_steps" and value == "auto":
                continue
            if value is not None and not 0 < value < _MOST:
                flag = "--" + name.replace("_", "-")
                raise UsageError(
                    f"{flag} {value}: it must be larger than 0 and less than {_MOST}."
                )
        self._check_fast_tier()
        self._check_ranges()
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise UsageError(
                f"--compute-dtype {self.compute_dtype}: use float32 or bfloat16."
            )
        if self.on_storage_error not in get_args(OnStorageError):
            raise UsageError(
                f"--on-storage-error {self.on_storage_error}: use stop or continue."
            )
        try:
            preset(self.preset)
        except ValueError as error:
            raise UsageError(str(error)) from error
        self._check_tpu()

    def _check_ranges(self) -> None:
        """Refuses numbers that are too small or too large.

        Raises:
            UsageError: If there is one.
        """
        if not 0 <= self.grace_secs < _MOST:
            raise UsageError(f"--grace-secs {self.grace_secs}: it must be 0 or more.")
        if not 0 <= self.seed < _SEEDS:
            raise UsageError(
                f"--seed {self.seed}: it must be at least 0 and less than {_SEEDS}."
            )
        if self.dropout_rate is not None and not 0 <= self.dropout_rate < 1:
            raise UsageError(
                f"--dropout-rate {self.dropout_rate}: it must be at least 0 and "
                "less than 1."
            )

    def _check_tpu(self) -> None:
        """Refuses flags of a TPU that mean nothing.

        Raises:
            UsageError: If there is one.
        """
        if self.strategy == "tpu":
            settings_from(self.tpu, self.tpu_zone, self.gcp_project)
            return
        for name in ("tpu", "tpu_zone", "gcp_project"):
            value = getattr(self, name)
            if value is not None:
                flag = "--" + name.replace("_", "-")
                raise UsageError(
                    f"{flag} {value} has no effect with --strategy {self.strategy}.\n"
                    "Leave it out, or use --strategy tpu."
                )

    @property
    def tpu_settings(self) -> TpuSettings | None:
        """Which TPU; None with another strategy."""
        if self.strategy != "tpu":
            return None
        return settings_from(self.tpu, self.tpu_zone, self.gcp_project)

    def _check_fast_tier(self) -> None:
        """Checks the flags of the fast tier.

        Raises:
            UsageError: If they can't work together.
        """
        if (self.fast_dir is None) != (self.fast_every_steps is None):
            raise UsageError("use --fast-dir and --fast-every-steps together.")
        if self.fast_dir is not None and self.strategy == "multi_worker":
            raise UsageError(
                "--fast-dir is a directory of one machine, and the workers of "
                "--strategy multi_worker could go on from different steps; leave it "
                "out."
            )

    @property
    def recipe(self) -> Recipe:
        """The preset."""
        return preset(self.preset)

    @property
    def records_dir(self) -> str:
        """Where the prepared records are or will be."""
        return self.records or f"{self.run_dir.rstrip('/')}/records"

    @property
    def global_batch_size(self) -> int:
        """Packed rows a step, over all replicas."""
        return self.batch_size or self.recipe.batch_size

    @property
    def save_period_secs(self) -> float | None:
        """Longest time between two saves, None without."""
        is_auto = self.save_every_steps == "auto"
        return self.save_every_secs or (None if is_auto else _SAVE_EVERY_SECS)

    @property
    def save_options(self) -> SaveOptions:
        """How to save."""
        fast = None
        if self.fast_dir is not None:
            fast = FastTier(self.fast_dir, every_steps=self.fast_every_steps)
        return SaveOptions(on_storage_error=self.on_storage_error, fast_tier=fast)

    @property
    def last_step(self) -> int:
        """Completed steps at which training ends."""
        return self.stop_step or self.recipe.stop_step

    def model_config(self, vocab_size: int) -> TransformerConfig:
        """Returns the model's sizes for a vocabulary."""
        model = self.recipe.model_config(vocab_size, compute_dtype=self.compute_dtype)
        if self.dropout_rate is not None:
            model = replace(model, dropout_rate=self.dropout_rate)
        return model

    def fingerprinted(self, model: TransformerConfig) -> dict[str, Any]:
        """Returns the settings that a resume must agree with, as JSON values."""
        return {
            "preset": self.preset,
            "model": asdict(model),
            "adam": asdict(self.recipe.adam),
            "seed": self.seed,
            "batch_size": self.global_batch_size,
        }
