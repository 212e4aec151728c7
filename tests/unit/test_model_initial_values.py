"""Initial values are a function of the seed and the layer's name alone."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_models import small_config

from models.layers import uniform
from models.transformer import Transformer, build_transformer


def values(model: Transformer) -> list[np.ndarray]:
    return [np.asarray(variable) for variable in model.trainable_variables]


def test_two_models_of_one_process_start_equal_and_other_seeds_differ() -> None:
    first, again, other = (
        values(build_transformer(small_config(), seed=seed)) for seed in (1, 1, 2)
    )
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        is_constant = (one == one.ravel()[0]).all()
        assert is_constant or (one != different).mean() > 0.99


def test_deeper_models_begin_with_the_values_of_the_shallower() -> None:
    shallow, deep = (
        build_transformer(small_config(num_encoder_layers=n), seed=1) for n in (1, 3)
    )
    for one, other in (
        (shallow.encoder_blocks[0], deep.encoder_blocks[0]),
        (shallow.decoder_blocks[1], deep.decoder_blocks[1]),
    ):
        np.testing.assert_array_equal(
            one.feed_forward.inner.numpy(), other.feed_forward.inner.numpy()
        )


def test_no_two_kernels_start_alike() -> None:
    kernels = [
        value.ravel()[:100].tobytes()
        for value in values(build_transformer(small_config(), seed=1))
        if value.ndim == 2
    ]
    # Embedding; two kernels of attention and two of feed-forward a block; decoders
    # have three more of cross-attention.
    assert len(kernels) == len(set(kernels)) == 1 + 2 * 4 + 2 * 7


@pytest.mark.parametrize(
    ("attribute", "fan_in", "fan_out"),
    [("inner", 256, 512), ("outer", 512, 256), ("query_key_value", 256, 256)],
)
def test_kernels_are_glorot_uniform_for_each_part(
    attribute: str, fan_in: int, fan_out: int
) -> None:
    config = small_config(model_dim=256, ffn_dim=512, num_encoder_layers=1)
    block = build_transformer(config, seed=1).encoder_blocks[0]
    layer = block.attention if attribute == "query_key_value" else block.feed_forward
    kernel = np.asarray(getattr(layer, attribute))
    limit = (6 / (fan_in + fan_out)) ** 0.5
    assert 0.999 * limit < np.abs(kernel).max() <= limit
    # A uniform variable's deviation; 100,000 values, so 1% is 5 deviations.
    assert kernel.std() == pytest.approx(limit / 3**0.5, rel=0.01)


def test_embedding_has_variance_one_over_the_model_dim() -> None:
    config = small_config(vocab_size=2000, model_dim=64)
    embedding = np.asarray(build_transformer(config, seed=1).embedding)
    assert embedding.std() == pytest.approx(64**-0.5, rel=0.01)


def test_values_do_not_depend_on_dtype_arguments_of_the_keras_version() -> None:
    make = uniform(1.0, seed=1, name="x")
    np.testing.assert_array_equal(make((3, 4)), make([3, 4], dtype="float32", extra=1))
