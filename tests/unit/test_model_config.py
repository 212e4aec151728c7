"""Sizes, parameter counts and recipes of the presets. Runs without TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from models.config import PRESETS, TransformerConfig, preset

PAPER_VOCAB = 37_000


@pytest.mark.parametrize(
    ("name", "millions", "tolerance"), [("base", 65, 0.04), ("big", 213, 0.01)]
)
def test_base_and_big_have_the_parameters_of_the_paper(
    name: str, millions: float, tolerance: float
) -> None:
    """Vaswani et al. 2017, table 3, rounds, and counts an untied bias or two."""
    count = preset(name).model_config(PAPER_VOCAB).num_parameters
    assert count / 1e6 == pytest.approx(millions, rel=tolerance)


@pytest.mark.parametrize("name", ["base", "big"])
def test_base_and_big_follow_the_paper_in_every_size(name: str) -> None:
    recipe = preset(name)
    factor = 1 if name == "base" else 2
    assert recipe.num_encoder_layers == recipe.num_decoder_layers == 6
    assert (recipe.model_dim, recipe.ffn_dim) == (512 * factor, 2048 * factor)
    assert recipe.num_heads == 8 * factor
    assert recipe.dropout_rate == {"base": 0.1, "big": 0.3}[name]
    assert recipe.norm == "post"
    adam = recipe.adam
    assert (adam.beta_1, adam.beta_2, adam.epsilon) == (0.9, 0.98, 1e-9)
    # Section 5.3 at its highest point: D^-0.5 * warmup^-0.5.
    peak = recipe.model_dim**-0.5 * adam.warmup_steps**-0.5
    assert adam.peak_learning_rate == pytest.approx(peak, rel=1e-12)
    assert recipe.model_config(PAPER_VOCAB).label_smoothing == 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_consistent(name: str) -> None:
    recipe = preset(name)
    assert recipe.name == name
    config = recipe.model_config(8000, compute_dtype="bfloat16")
    assert config.compute_dtype == "bfloat16" and config.vocab_size == 8000
    assert config.ffn_dim == recipe.ffn_dim and config.norm == recipe.norm
    if recipe.adam.decay_steps is not None:
        assert recipe.adam.warmup_steps < recipe.adam.decay_steps
        assert recipe.stop_step <= recipe.adam.decay_steps


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="--preset 'huge' is none of tiny, small, ba"):
        preset("huge")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_dim": 40, "num_heads": 8}, "multiple of twice num_heads"),
        ({"model_dim": 24, "num_heads": 2}, "multiple of 16"),
        ({"dropout_rate": 1.0}, r"must be in \[0, 1\)"),
        ({"dropout_rate": -0.1}, r"must be in \[0, 1\)"),
        ({"norm": "rms"}, "'rms' must be 'pre' or 'post'"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_together_are_refused(
    change: dict[str, Any], message: str
) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "model_dim": 32,
        "num_heads": 2,
        "ffn_dim": 48,
    }
    TransformerConfig(**sizes)
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{**sizes, **change})


def test_sizes_are_known_without_importing_tensorflow() -> None:
    code = (
        "import sys, models; models.preset('tiny').model_config(9).num_parameters;"
        "assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
