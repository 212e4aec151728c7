"""What `save_cost.py` saves: the states, and the plan that each process gets.

    plan = Plan(size="725MB", directory="/data/run", num_steps=5)
    plan.shapes, plan.state_bytes

Needs the standard library only, so that each peer may run on another interpreter.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

Shape = tuple[int, ...]

FLOAT32_BYTES = 4
ARRAYS_A_PARAMETER = 3
"""The parameter and Adam's two moments."""


def transformer_shapes(
    *, vocab_size: int, model_dim: int, ffn_dim: int, num_layers: int
) -> list[Shape]:
    """Returns the parameters of a Transformer with a joint embedding.

    As in Vaswani et al. (2017), table 3: as many decoder blocks as encoder blocks,
    attention without biases, two layer norms an encoder block and three a decoder's.
    """
    attention = [(model_dim, model_dim)] * 4
    feed_forward = [(model_dim, ffn_dim), (ffn_dim,), (ffn_dim, model_dim)]
    feed_forward += [(model_dim,)]
    norm = [(model_dim,)] * 2
    encoder = attention + feed_forward + 2 * norm
    decoder = 2 * attention + feed_forward + 3 * norm
    return [(vocab_size, model_dim)] + num_layers * (encoder + decoder)


SIZES: dict[str, list[Shape]] = {
    "1MB": transformer_shapes(vocab_size=400, model_dim=64, ffn_dim=128, num_layers=1),
    "50MB": transformer_shapes(
        vocab_size=1_900, model_dim=256, ffn_dim=1024, num_layers=2
    ),
    # "base" of the paper, with 32,000 pieces.
    "725MB": transformer_shapes(
        vocab_size=32_000, model_dim=512, ffn_dim=2048, num_layers=6
    ),
    # "big" of the paper, with as many pieces as make it 3 GB.
    "3GB": transformer_shapes(
        vocab_size=72_000, model_dim=1024, ffn_dim=4096, num_layers=6
    ),
    # 50 MB in 2,000 arrays.
    "many": [(79, 79)] * 666,
}


@dataclass(frozen=True, kw_only=True)
class Window:
    """How a save in training is timed.

    Attributes:
        directory: Where to save; the process has it for itself.
        num_steps: Steps to time after a save; more, if it is not committed by then.
        num_steps_alone: Steps to time without a save, before it and again after it.
    """

    directory: str
    num_steps: int = 5
    num_steps_alone: int = 7


@dataclass(frozen=True, kw_only=True)
class Plan(Window):
    """What one process measures.

    Attributes:
        size: A name of `SIZES`.
        num_products: Matrix products of `width` squared in a step.
        width: Rows and columns of each.
        optimizer: Of the TensorFlow peers: `fused`, one kernel a variable, as this
            project trains and as PyTorch's `fused=True`; or `keras`, Keras' own.
    """

    size: str
    num_products: int = 24
    width: int = 1024
    optimizer: str = "fused"

    @property
    def shapes(self) -> list[Shape]:
        """The shapes of the parameters; the state has each of them three times."""
        return SIZES[self.size]

    @property
    def num_arrays(self) -> int:
        """Arrays of the state, without its counters."""
        return ARRAYS_A_PARAMETER * len(self.shapes)

    @property
    def state_bytes(self) -> int:
        """Bytes of the state, without its counters."""
        num_parameters = sum(math.prod(shape) for shape in self.shapes)
        return num_parameters * ARRAYS_A_PARAMETER * FLOAT32_BYTES

    @property
    def step_flop(self) -> int:
        """Floating-point operations of a step's matrix products."""
        return self.num_products * 2 * self.width**3

    def write(self, path: str) -> None:
        """Writes it for `read_plan`."""
        Path(path).write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_plan(path: str) -> Plan:
    """Returns a plan that was written."""
    return Plan(**json.loads(Path(path).read_text(encoding="utf-8")))
