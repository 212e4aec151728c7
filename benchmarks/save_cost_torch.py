"""PyTorch's `torch.save` and DCP's `async_save`, for `save_cost.py`.

`torch.save` is called as PyTorch's tutorials do, and does not fsync. DCP gets the
state from `get_state_dict` and stages and writes it with its own defaults, which fsync.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from save_cost_plan import Plan
from save_cost_process import (
    BETA_1,
    BETA_2,
    DECAY,
    EPSILON,
    LEARNING_RATE,
    initial_values,
    operands,
    run,
)

try:
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
except ImportError:
    print(json.dumps({"is_missing": True}))
    sys.exit(0)


class Torch:
    """The training, and `torch.save`."""

    def __init__(self, plan: Plan) -> None:
        self.version = f"PyTorch {torch.__version__}"
        self._directory = Path(plan.directory)
        self._num_products = plan.num_products
        self._x, self._w = (torch.from_numpy(array) for array in operands(plan))
        self._model = torch.nn.Module()
        self._model.held = torch.nn.ParameterList(
            torch.nn.Parameter(torch.from_numpy(value))
            for value in initial_values(plan)
        )
        self._held = list(self._model.parameters())
        for parameter in self._held:
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer = torch.optim.Adam(
            self._held,
            lr=LEARNING_RATE,
            betas=(BETA_1, BETA_2),
            eps=EPSILON,
            fused=True,
        )
        self._step = 0

    @torch.no_grad()
    def step(self) -> None:
        """Multiplies, and updates every parameter."""
        x = self._x
        for _ in range(self._num_products):
            x = torch.tanh(x @ self._w)
        mean = x.mean()
        for parameter in self._held:
            torch.mul(parameter, DECAY, out=parameter.grad).add_(mean)
        self._optimizer.step()
        self._step += 1

    def save(self) -> Callable[[], object]:
        state = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self._step,
        }
        torch.save(state, self._path())
        self._newest = self._path()
        return lambda: None

    def restore(self) -> float:
        begun = time.perf_counter()
        state = torch.load(self._newest, weights_only=True)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step = state["step"]
        return time.perf_counter() - begun

    def arrays(self) -> Iterator[np.ndarray]:
        for parameter in self._held:
            of_adam = self._optimizer.state[parameter]
            for tensor in (parameter, of_adam["exp_avg"], of_adam["exp_avg_sq"]):
                yield tensor.detach().numpy()

    def close(self) -> None:
        """Nothing runs on."""

    def _path(self) -> Path:
        return self._directory / f"step-{self._step}"


class Dcp(Torch):
    """The same training, and DCP."""

    def save(self) -> Callable[[], object]:
        self._newest = self._path()
        return dcp.async_save(self._state(), checkpoint_id=self._newest).result

    def restore(self) -> float:
        begun = time.perf_counter()
        state = self._state()
        dcp.load(state, checkpoint_id=self._newest)
        set_state_dict(
            self._model,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        return time.perf_counter() - begun

    def _state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._model, self._optimizer)
        return {"model": model, "optimizer": optimizer}


if __name__ == "__main__":
    run(Dcp if "--dcp" in sys.argv else Torch)
