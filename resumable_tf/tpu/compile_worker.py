"""Compiles one program with the TPU compiler; runs in an environment of its own.

python compile_worker.py request.json answer.json

There, JAX and libtpu are installed, and neither TensorFlow nor this package. The
request names the program (a StableHLO file), the topology and where to write the
optimized HLO; the answer holds the compiler's figures or its error. Private parts of
JAX are used, so its version is pinned exactly (`compiler_environment.PINS`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jax._src import compiler
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jax.errors import JaxRuntimeError
from jax.experimental import topologies
from jaxlib.mlir import ir


def main(request_path: str, answer_path: str) -> None:
    """Answers one request.

    Args:
        request_path: JSON file with `program`, `topology`, `num_replicas`,
            `chips_per_host`, `config_name` and `hlo`.
        answer_path: JSON file to write: `error`, or the figures.
    """
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    try:
        answer = _compile(request)
    except JaxRuntimeError as error:
        answer = {"error": str(error)}
    Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")


def _compile(request: dict[str, Any]) -> dict[str, Any]:
    """Compiles the program of a request and returns the compiler's figures."""
    options: dict[str, Any] = {
        "chips_per_host_bounds": tuple(request["chips_per_host"])
    }
    if request["config_name"]:
        options["chip_config_name"] = request["config_name"]
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=request["topology"], **options
    ).devices
    started = time.monotonic()
    executable = _compile_for(
        Path(request["program"]).read_bytes(), devices, request["num_replicas"]
    )
    compile_secs = time.monotonic() - started
    hlo = executable.hlo_modules()[0].to_string()
    Path(request["hlo"]).write_text(hlo, encoding="utf-8")
    memory = executable.get_compiled_memory_stats()
    cost = executable.cost_analysis()
    return {
        "compile_secs": compile_secs,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        # A program without arithmetic has no entry.
        "flops": cost.get("flops", 0.0),
    }


def _compile_for(program: bytes, devices: Any, num_replicas: int) -> Any:
    """Returns the executable of a StableHLO program on the first devices."""
    context = mlir.make_ir_context()
    with context, ir.Location.unknown(context):
        module = ir.Module.parse(program)
        if "sym_name" not in module.operation.attributes:
            name = ir.StringAttr.get("training_step")
            module.operation.attributes["sym_name"] = name
        _drop_copies(module)
        assignment = np.arange(num_replicas).reshape(num_replicas, 1)
        options = compiler.get_compile_options(
            num_replicas=num_replicas, num_partitions=1, device_assignment=assignment
        )
        return compiler.backend_compile_and_load(
            devices[0].client,
            module,
            xla_client.DeviceList(tuple(devices[:num_replicas])),
            options,
            [],
        )


def _drop_copies(module: Any) -> None:
    """Removes `mhlo.copy`: TensorFlow puts it at results, and it is not StableHLO."""
    for operation in list(_operations(module.body)):
        if operation.name == "mhlo.copy":
            operation.result.replace_all_uses_with(operation.operands[0])
            operation.erase()


def _operations(block: Any) -> Iterator[Any]:
    """Yields the operations of a block and of all blocks in it."""
    for view in block.operations:
        for region in view.operation.regions:
            for inner in region.blocks:
                yield from _operations(inner)
        yield view.operation


if __name__ == "__main__":
    main(*sys.argv[1:])
