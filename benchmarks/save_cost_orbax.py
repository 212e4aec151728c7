"""Orbax' asynchronous `CheckpointManager` on JAX, for `save_cost.py`.

The arrays are donated to the step, as a training that needs its memory does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
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
    import jax
    import jax.numpy as jnp
    import orbax.checkpoint as ocp
except ImportError:
    print(json.dumps({"is_missing": True}))
    sys.exit(0)

Tree = dict[str, Any]


@partial(jax.jit, donate_argnums=0, static_argnames="num_products")
def train_step(state: Tree, x: Any, w: Any, *, num_products: int) -> Tree:
    """Multiplies, and updates every parameter with Adam."""
    for _ in range(num_products):
        x = jnp.tanh(x @ w)
    mean = jnp.mean(x)
    number = state["step"] + 1
    floats = number.astype(jnp.float32)
    correction = jnp.sqrt(1 - BETA_2**floats) / (1 - BETA_1**floats)

    def update(parameter: Any, first: Any, second: Any) -> tuple[Any, Any, Any]:
        gradient = DECAY * parameter + mean
        first = BETA_1 * first + (1 - BETA_1) * gradient
        second = BETA_2 * second + (1 - BETA_2) * gradient**2
        change = LEARNING_RATE * correction * first / (jnp.sqrt(second) + EPSILON)
        return parameter - change, first, second

    names = ("parameters", "first_moments", "second_moments")
    updated = [update(*arrays) for arrays in zip(*(state[n] for n in names))]  # noqa: B905
    lists = {
        name: [arrays[index] for arrays in updated] for index, name in enumerate(names)
    }
    return {**lists, "step": number}


class Orbax:
    def __init__(self, plan: Plan) -> None:
        self.version = f"Orbax {ocp.__version__}, JAX {jax.__version__}"
        parameters = [jnp.array(value) for value in initial_values(plan)]
        self._state: Tree = {
            "parameters": parameters,
            "first_moments": [jnp.zeros_like(p) for p in parameters],
            "second_moments": [jnp.zeros_like(p) for p in parameters],
            "step": jnp.array(0, jnp.int32),
        }
        self._operands = [jnp.array(array) for array in operands(plan)]
        self._num_products = plan.num_products
        self._step = 0
        self._manager = ocp.CheckpointManager(
            plan.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=3, enable_async_checkpointing=True
            ),
        )

    def step(self) -> None:
        self._state = train_step(
            self._state, *self._operands, num_products=self._num_products
        )
        jax.block_until_ready(self._state)
        self._step += 1

    def save(self) -> Callable[[], object]:
        self._manager.save(self._step, args=ocp.args.StandardSave(self._state))
        return self._manager.wait_until_finished

    def restore(self) -> float:
        begun = time.perf_counter()
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, self._state)
        step = self._manager.latest_step()
        self._state = self._manager.restore(step, args=ocp.args.StandardRestore(like))
        jax.block_until_ready(self._state)
        return time.perf_counter() - begun

    def arrays(self) -> Iterator[np.ndarray]:
        for name in ("parameters", "first_moments", "second_moments"):
            for array in self._state[name]:
                yield np.asarray(array)

    def close(self) -> None:
        self._manager.close()


if __name__ == "__main__":
    run(Orbax)
