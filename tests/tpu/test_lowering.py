"""Steps are lowered as they are; what a TPU can't run is found with its source line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from helpers import tpu_steps

from models import TransformerConfig
from resumable_tf.data.record_files import RowLayout
from resumable_tf.errors import UsageError
from resumable_tf.tpu.check_report import DYNAMIC_SHAPE, HOST_ONLY
from resumable_tf.tpu.compile_only_strategy import CompileOnlyStrategy
from resumable_tf.tpu.lowering import LoweredStep, lower_step
from resumable_tf.tpu.own_step import OwnStep, load_own_step
from resumable_tf.training.config import TrainConfig
from resumable_tf.training.program import build_program, trace_program

SOURCE = Path(tpu_steps.__file__)


def lower(name: str, *, num_replicas: int = 4) -> LoweredStep:
    own = OwnStep(name, getattr(tpu_steps, name))
    return lower_step(own.for_batch(None), num_replicas=num_replicas)


def line_with(comment: str) -> str:
    """Returns `file:number: text` of the line that ends with a comment."""
    for number, line in enumerate(SOURCE.read_text().splitlines(), start=1):
        if line.endswith(f"# {comment}"):
            return f"{SOURCE}:{number}: {line.strip()}"
    raise AssertionError(f"no line with {comment}")


def test_a_keras_step_lowers_unmodified_and_nothing_is_found_in_it() -> None:
    lowered = lower("make_step")
    assert lowered.error is None and lowered.findings == ()
    assert lowered.program


def test_the_rows_of_a_replica_in_fit_have_a_known_length() -> None:
    lowered = lower("make_step_of_fit")
    assert lowered.error is None and lowered.findings == ()
    assert lowered.program and b"set_dimension_size" not in lowered.program


def test_python_and_printing_are_found_with_their_lines_also_in_a_branch() -> None:
    lowered = lower("make_step_with_python")
    assert lowered.program is None
    assert re.match("no TPU kernel for .*EagerPyFunc.*PrintV2", str(lowered.error))
    found = {(f.kind, f.operation): f.source for f in lowered.findings}
    assert found[HOST_ONLY, "EagerPyFunc"] == line_with("the Python call")
    assert found[HOST_ONLY, "PrintV2"] == line_with("the print in a branch")


def test_a_result_of_unknown_length_is_found_where_it_begins() -> None:
    lowered = lower("make_step_of_unknown_length")
    assert lowered.error is None
    kinds = {(f.kind, f.operation): f.source for f in lowered.findings}
    assert kinds == {(DYNAMIC_SHAPE, "Where"): line_with("the mask")}


def test_a_step_in_a_loop_lowers_once_with_its_replica_number_as_a_tensor() -> None:
    recorded: list[CompileOnlyStrategy] = []

    def trace(strategy: CompileOnlyStrategy) -> None:
        recorded.append(strategy)
        step, spec = tpu_steps.make_step_in_a_loop()
        step.get_concrete_function(spec)

    assert lower_step(trace, num_replicas=6).error is None
    graph = recorded[0].recorded().traced.graph
    reductions = [op for op in graph.get_operations() if op.type == "XlaAllReduce"]
    assert len(reductions) == 1
    group = next(iter(reductions[0].inputs[1].op.get_attr("value").int_val), 0)
    assert group == 0 and "replica" in [op.name for op in graph.get_operations()]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("make_step_without_run", r"never called strategy\.run"),
        ("make_step_with_two_runs", r"calls strategy\.run 2 times \(.*first.*second"),
        ("make_step_with_outer_tensor", r"a tensor of the function around it"),
        ("make_nothing", r"returned int; expected a pair"),
    ],
)
def test_a_step_that_can_not_be_checked_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        lower(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tpu_steps", r"not of the form module:function"),
        ("helpers.tpu_step:make_step", r"no module 'helpers.tpu_step'"),
        ("no_such_module:make_step", r"no module 'no_such_module'"),
        ("helpers.tpu_steps:make", r"has no function 'make'"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_own_step(name)


def test_a_module_that_lacks_an_import_of_its_own_shows_that_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_step_9.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        load_own_step("my_step_9:make_step")


def test_a_batch_size_that_has_no_effect_is_refused() -> None:
    own = load_own_step("helpers.tpu_steps:make_step_of_fixed_size")
    with pytest.raises(UsageError, match=r"--batch-size 8 has no effect"):
        own.for_batch(8)


def test_the_training_script_s_own_step_lowers_with_rows_by_replica() -> None:
    """On a TPU a replica's number is a tensor: its rows must have a known length."""
    config = TrainConfig(run_dir="none", batch_size=6, compute_dtype="bfloat16")
    sizes = TransformerConfig(
        vocab_size=64,
        num_encoder_layers=1,
        num_decoder_layers=1,
        model_dim=16,
        num_heads=2,
        ffn_dim=32,
        compute_dtype=config.compute_dtype,
    )

    def trace(strategy: CompileOnlyStrategy) -> None:
        program = build_program(config, sizes, strategy)
        trace_program(program, config.global_batch_size, RowLayout(8, 8))

    lowered = lower_step(trace, num_replicas=3)
    assert lowered.error is None and lowered.findings == ()
