"""The whole output of a program that is killed and started again.

Guards against an exact resume that looks like a failure: TensorFlow's warnings of
values that it did not find, and not one word of our own.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import ROOT, run_training, train_args, write_corpus

OF_TENSORFLOW = (
    r"WARNING: All log messages before absl::InitializeLog\(\) is called are written .*"
    r"|[IWE]\d{4} .* (port|cudart_stub|cuda_platform|cpu_feature_guard)\.cc:\d+\] .*"
    # A busy machine's Keras.
    r"|WARNING:tensorflow:Callback method `on_train_batch_end` is slow compared .*"
)
OF_KERAS = r"Epoch \d/3|6/6 - .* val_mae: .*"
FIT_LINE = (
    r"resumed from step 8: epoch 2 of 3, 2 of 6 batches done; 10 batches to go "
    r"\(\d+\.\d s\)"
)
FINISHED_LINE = (
    r"this training was complete, all 3 epochs \(step 18\) in an earlier start: "
    r"nothing is left to do \(\d+\.\d s\)"
)


def output_of(kind: str, run_dir: Path, *rest: str, legacy: bool) -> tuple[int, list]:
    done = subprocess.run(
        [sys.executable, "-m", "helpers.talking_programs", kind, str(run_dir), *rest],
        env={
            **{"PATH": "", "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
            **{"TF_CPP_MIN_LOG_LEVEL": "3", "NO_GCE_CHECK": "true"},
            **({"TF_USE_LEGACY_KERAS": "1"} if legacy else {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout.splitlines()


def of_us(lines: list[str], known: str = "$^") -> list[str]:
    """Returns the lines that neither TensorFlow nor Keras always print."""
    pattern = re.compile(f"{OF_TENSORFLOW}|{known}")
    return [line for line in lines if line and not pattern.fullmatch(line)]


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("legacy", [False, True], ids=["keras_3", "tf_keras"])
def test_fit_says_one_line(tmp_path: Path, legacy: bool) -> None:
    code, lines = output_of("fit", tmp_path, "--kill-at", "9", legacy=legacy)
    assert code == -signal.SIGKILL
    assert of_us(lines, OF_KERAS) == []
    code, lines = output_of("fit", tmp_path, legacy=legacy)
    assert code == 0
    (line,) = of_us(lines, OF_KERAS)
    assert re.fullmatch(FIT_LINE, line)
    code, lines = output_of("fit", tmp_path, legacy=legacy)
    assert code == 0
    (line,) = of_us(lines)  # Not one epoch.
    assert re.fullmatch(FINISHED_LINE, line)


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("legacy", [False, True], ids=["keras_3", "tf_keras"])
def test_a_loop_says_one_line(tmp_path: Path, legacy: bool) -> None:
    code, lines = output_of("loop", tmp_path, "--kill-at", "9", legacy=legacy)
    assert code == -signal.SIGKILL
    assert of_us(lines) == []
    code, lines = output_of("loop", tmp_path, legacy=legacy)
    assert code == 0
    (line,) = of_us(lines)
    assert re.fullmatch(rf"resumed from step 8 of {tmp_path} in \d+\.\d s", line)


@pytest.mark.slow
@pytest.mark.crash
def test_the_script_says_it_once(tmp_path: Path) -> None:
    args = train_args(tmp_path / "run", write_corpus(tmp_path / "corpus.tsv"))
    first = run_training(args, kill_after_step=10)
    assert first.returncode == -signal.SIGKILL
    second = run_training(args)
    assert second.returncode == 0, second.stderr
    known = (
        r"(.* )?INFO +.*|.*(step|tokens|loss|epoch|saved|it/s|s/step).*"
        r"|.*: finished at step 24\."
    )
    text = f"{second.stdout}\n{second.stderr}"
    assert len(re.findall(r"resumed from step [48] ", text)) == 1
    for output in (first, second):
        said = f"{output.stdout}\n{output.stderr}"
        assert "could not be found" not in said
        assert "WARNING" not in re.sub(OF_TENSORFLOW, "", said)
        assert not [
            line
            for line in of_us(said.splitlines(), known)
            if "Traceback" in line or "Error" in line
        ]
