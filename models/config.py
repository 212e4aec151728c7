"""Sizes and training recipes of the Transformer presets. Imports no TensorFlow.

    recipe = preset("base")
    recipe.model_dim, recipe.adam.peak_learning_rate

`base` and `big` are those of Vaswani et al. (2017), "Attention Is All You Need",
table 3. `tiny` and `small` are sized for the embedded corpus and a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

PRE_NORM, POST_NORM = "pre", "post"


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of an encoder-decoder Transformer.

    Attributes:
        vocab_size: Pieces of the joint vocabulary, V.
        num_encoder_layers: Encoder blocks.
        num_decoder_layers: Decoder blocks.
        model_dim: D.
        num_heads: H.
        ffn_dim: Inner size of the feed-forward layers.
        dropout_rate: Share dropped of each sub-layer's output and of the embeddings,
            as in the paper, section 5.4; 0 to 1.
        norm: `pre` (layer norm before each sub-layer) or `post` (after, as in the
            paper).
        label_smoothing: Probability mass given to all pieces alike.
        compute_dtype: `float32` or `bfloat16`; variables are always float32.
    """

    vocab_size: int
    num_encoder_layers: int
    num_decoder_layers: int
    model_dim: int
    num_heads: int
    ffn_dim: int
    dropout_rate: float = 0.1
    norm: str = PRE_NORM
    label_smoothing: float = 0.1
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks that the sizes fit together.

        Raises:
            ValueError: If they do not.
        """
        if self.model_dim % (2 * self.num_heads):
            raise ValueError(
                f"model_dim {self.model_dim} must be a multiple of twice num_heads "
                f"{self.num_heads}"
            )
        if self.model_dim % 16:
            raise ValueError(
                f"model_dim {self.model_dim} must be a multiple of 16: dropout draws "
                "16 values at a time"
            )
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate {self.dropout_rate} must be in [0, 1)")
        if self.norm not in (PRE_NORM, POST_NORM):
            raise ValueError(f"norm {self.norm!r} must be 'pre' or 'post'")

    @property
    def num_parameters(self) -> int:
        """Trainable parameters, the shared embedding counted once."""
        dim, ffn = self.model_dim, self.ffn_dim
        attention, feed_forward = 4 * dim * dim, 2 * dim * ffn + ffn + dim
        norm = 2 * dim
        encoder = self.num_encoder_layers * (attention + feed_forward + 2 * norm)
        decoder = self.num_decoder_layers * (2 * attention + feed_forward + 3 * norm)
        final_norms = 2 * norm if self.norm == PRE_NORM else 0
        return self.vocab_size * dim + encoder + decoder + final_norms


@dataclass(frozen=True)
class AdamConfig:
    """Adam and its learning-rate schedule.

    The rate rises linearly to its peak over the warm-up, then falls with the inverse
    square root of the step (Vaswani et al. 2017, section 5.3). With `decay_steps` it
    falls linearly to zero instead, which short trainings gain by.

    Attributes:
        peak_learning_rate: Rate at the end of the warm-up.
        warmup_steps: Steps of the warm-up.
        decay_steps: The step at which the rate reaches zero; inverse square root if
            None.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added to the root of the second moment.
    """

    peak_learning_rate: float
    warmup_steps: int
    decay_steps: int | None = None
    beta_1: float = 0.9
    beta_2: float = 0.98
    epsilon: float = 1e-9


@dataclass(frozen=True)
class Recipe:
    """A preset: sizes, and how it is trained by default.

    Attributes:
        name: The preset's name.
        num_encoder_layers: Encoder blocks.
        num_decoder_layers: Decoder blocks.
        model_dim: D.
        num_heads: H.
        ffn_dim: Inner size of the feed-forward layers.
        dropout_rate: Share of activations dropped.
        norm: `pre` or `post`.
        adam: Optimizer and schedule.
        batch_size: Packed rows a step, over all replicas.
        row_length: Target tokens of a packed row, T.
        stop_step: Steps of a whole training.
        vocab_size: Pieces of the joint vocabulary; by the corpus' size if None.
    """

    name: str
    num_encoder_layers: int
    num_decoder_layers: int
    model_dim: int
    num_heads: int
    ffn_dim: int
    dropout_rate: float
    norm: str
    adam: AdamConfig
    batch_size: int
    row_length: int
    stop_step: int
    vocab_size: int | None = None

    def model_config(
        self, vocab_size: int, *, compute_dtype: str = "float32"
    ) -> TransformerConfig:
        """Returns the model's sizes for a vocabulary."""
        return TransformerConfig(
            vocab_size=vocab_size,
            num_encoder_layers=self.num_encoder_layers,
            num_decoder_layers=self.num_decoder_layers,
            model_dim=self.model_dim,
            num_heads=self.num_heads,
            ffn_dim=self.ffn_dim,
            dropout_rate=self.dropout_rate,
            norm=self.norm,
            compute_dtype=compute_dtype,
        )


def _paper_adam(model_dim: int, warmup_steps: int) -> AdamConfig:
    """The paper's schedule: D^-0.5 * min(step^-0.5, step * warmup^-1.5)."""
    return AdamConfig(
        peak_learning_rate=(model_dim * warmup_steps) ** -0.5,
        warmup_steps=warmup_steps,
    )


PRESETS = {
    "tiny": Recipe(
        name="tiny",
        num_encoder_layers=3,
        num_decoder_layers=2,
        model_dim=192,
        num_heads=4,
        ffn_dim=768,
        dropout_rate=0.0,
        norm=PRE_NORM,
        adam=AdamConfig(2.5e-3, warmup_steps=300, decay_steps=4000),
        batch_size=16,
        row_length=64,
        stop_step=4000,
        vocab_size=4000,
    ),
    "small": Recipe(
        name="small",
        num_encoder_layers=4,
        num_decoder_layers=4,
        model_dim=320,
        num_heads=4,
        ffn_dim=1280,
        dropout_rate=0.2,
        norm=PRE_NORM,
        adam=AdamConfig(1.5e-3, warmup_steps=1000, decay_steps=20_000),
        batch_size=32,
        row_length=96,
        stop_step=20_000,
    ),
    "base": Recipe(
        name="base",
        num_encoder_layers=6,
        num_decoder_layers=6,
        model_dim=512,
        num_heads=8,
        ffn_dim=2048,
        dropout_rate=0.1,
        norm=POST_NORM,
        adam=_paper_adam(512, 4000),
        batch_size=200,
        row_length=128,
        stop_step=100_000,
    ),
    "big": Recipe(
        name="big",
        num_encoder_layers=6,
        num_decoder_layers=6,
        model_dim=1024,
        num_heads=16,
        ffn_dim=4096,
        dropout_rate=0.3,
        norm=POST_NORM,
        adam=_paper_adam(1024, 4000),
        batch_size=200,
        row_length=128,
        stop_step=300_000,
    ),
}
"""Batches of `base` and `big` hold about the paper's 25,000 tokens a side."""


def preset(name: str) -> Recipe:
    """Returns the preset of this name.

    Raises:
        ValueError: If there is none.
    """
    if name not in PRESETS:
        raise ValueError(
            f"--preset {name!r} is none of {', '.join(PRESETS)}. Use one of these."
        )
    return PRESETS[name]
