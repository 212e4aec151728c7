"""Models of this project. They import nothing of `resumable_tf`.

from models import build_transformer, preset
recipe = preset("tiny")
model = build_transformer(recipe.model_config(vocab_size=8000), seed=1)
"""

from models.config import (
    PRESETS,
    AdamConfig,
    Recipe,
    TransformerConfig,
    preset,
)

__all__ = [
    "PRESETS",
    "AdamConfig",
    "Recipe",
    "Transformer",
    "TransformerConfig",
    "build_transformer",
    "preset",
]


def __getattr__(name: str) -> object:
    """Imports the model, and with it TensorFlow, only when it is asked for."""
    if name in ("Transformer", "build_transformer"):
        from models import transformer

        return getattr(transformer, name)
    raise AttributeError(f"module 'models' has no attribute {name!r}")
