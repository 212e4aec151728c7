"""The documented commands: export a run, translate with it, evaluate it."""

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from helpers.fitted_run import fitted_run
from typer.testing import CliRunner

from resumable_tf.data.record_files import RecordSet
from resumable_tf.serving.export_directory import find_export
from resumable_tf.serving.run_loader import load_run

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def invoke(script, *args, stdin=b""):
    """Runs a script's command in this process."""
    path = ROOT / "scripts" / f"{script}.py"
    spec = importlib.util.spec_from_file_location(script, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = typer.Typer()
    app.command()(module.main)
    return CliRunner().invoke(app, list(args), input=stdin)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A copy of the fitted run: exporting also works where the run was moved to."""
    directory = tmp_path_factory.mktemp("moved") / "run"
    shutil.copytree(fitted_run().directory, directory)
    result = invoke("export_model", "--run-dir", str(directory), "--beam", "2")
    assert result.exit_code == 0, result.output
    assert f"exported step {fitted_run().step} to {directory}/export/1" in result.stdout
    return directory


def test_an_export_names_the_checkpoint_and_the_sizes(run_dir):
    again = invoke("export_model", "--run-dir", str(run_dir), "--beam", "2")
    assert again.exit_code == 0, again.output
    assert f"had exported step {fitted_run().step} to" in again.stdout
    content = find_export(str(run_dir)).content
    run = load_run(str(run_dir))
    assert find_export(str(run_dir)).version == "1"
    assert content["source"]["step"] == fitted_run().step
    assert content["source"]["run_config"] == run.fingerprint
    assert len(content["source"]["manifest"]) == 64
    assert content["beam_size"] == 2
    manifest = json.loads(
        (
            run_dir / "checkpoints" / f"ckpt-{fitted_run().step}.manifest.json"
        ).read_text()
    )
    state = sum(file["size"] for file in manifest["files"])
    assert f"training state  {state / 1e6:.1f} MB, " in again.stdout


def test_other_settings_make_the_next_version(run_dir):
    other = invoke("export_model", "--run-dir", str(run_dir), "--beam", "3")
    assert other.exit_code == 0, other.output
    assert find_export(str(run_dir)).version == "2"
    assert find_export(str(run_dir)).content["beam_size"] == 3
    shutil.rmtree(run_dir / "export" / "2")


def test_a_process_without_this_project_serves_the_export(run_dir, tmp_path):
    source, text = fitted_run().known[0]
    result = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).parents[1] / "helpers" / "serve_alone.py"),
            str(run_dir / "export" / "1"),
            source,
        ],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    translated = json.loads(result.stdout.splitlines()[-1])
    assert translated[:2] == [text, ""]
    assert translated[2]


def test_translate_reads_lines_and_writes_lines(run_dir):
    pairs = fitted_run().known[:4]
    stdin = "".join(f"{source}\n\n" for source, _ in pairs).encode()
    for beam in ([], ["--beam", "1"], ["--beam", "5"]):
        args = ["--model", str(run_dir / "export"), *beam]
        result = invoke("translate", *args, stdin=stdin)
        assert result.exit_code == 0, result.output
        assert result.stdout == "".join(f"{text}\n\n" for _, text in pairs)


def test_translate_says_how_many_lines_were_cut(run_dir):
    line = " ".join(source for source, _ in fitted_run().known * 2) + "\n"
    result = invoke("translate", "--model", str(run_dir), stdin=line.encode())
    assert result.exit_code == 0, result.output
    assert "1 lines have more than 255 tokens" in result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_evaluation_prints_both_metrics_and_some_translations(run_dir):
    records = run_dir / "records"
    known = fitted_run().known
    (records / "test.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in known))
    result = invoke(
        *("evaluate_translation", "--model", str(run_dir / "export")),
        *("--records", str(records), "--limit", "6", "--show", "2"),
    )
    assert result.exit_code == 0, result.output
    assert "BLEU 100.00  nrefs:1|case:mixed|eff:no|tok:13a" in result.stdout
    assert "chrF 100.00  nrefs:1|case:mixed|eff:yes|nc:6" in result.stdout
    assert result.stdout.count("source     ") == 2
    assert f"ours       {known[3][1]}" in result.stdout
    assert "6 sentences, beam 2" in result.stdout


def test_without_an_export_translate_stops_at_once_with_advice(tmp_path):
    result = subprocess.run(
        [sys.executable, "scripts/translate.py", "--model", str(tmp_path)],
        cwd=ROOT,
        input="Hello\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert "there is no exported model" in result.stderr
    assert "scripts/export_model.py --run-dir" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("args", "exit_code", "message"),
    [
        (["--run-dir", "{empty}"], 2, "there is no run"),
        (["--run-dir", "{run}", "--step", "9"], 1, "no checkpoint of step 9"),
        (["--run-dir", "{run}", "--records", "{empty}"], 1, "no prepared record set"),
        (["--run-dir", "{run}", "--beam", "0"], 2, "--beam"),
        ([], 2, "--run-dir"),
    ],
)
def test_what_can_not_be_exported_is_explained(
    run_dir, tmp_path, args, exit_code, message
):
    places = {"empty": str(tmp_path), "run": str(run_dir)}
    result = invoke("export_model", *(arg.format(**places) for arg in args))
    assert result.exit_code == exit_code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert sorted(os.listdir(run_dir / "export")) == ["1"]


def test_a_damaged_newest_checkpoint_is_passed_over(run_dir, tmp_path, caplog):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    good, bad = f"ckpt-{fitted_run().step}", "ckpt-99999"
    for path in sorted((copy / "checkpoints").glob(f"{good}.*")):
        content = path.read_bytes()
        if path.suffix == ".json":
            fields = json.loads(content)
            content = json.dumps({**fields, "step": 99999}).encode()
        path.with_name(path.name.replace(good, bad)).write_bytes(content)
    result = invoke("export_model", "--run-dir", str(copy))
    assert result.exit_code == 0, result.output
    assert f"exported step {fitted_run().step} " in result.stdout
    assert "checkpoint 99999" in caplog.text


def test_another_record_set_is_refused(run_dir, tmp_path):
    other = tmp_path / "records"
    shutil.copytree(run_dir / "records", other)
    from helpers.records import text_pairs, write_tsv
    from helpers.settings import SETTINGS

    from resumable_tf.data.prepare import prepare_records

    pairs = write_tsv(tmp_path / "pairs.tsv", text_pairs(40, seed=1))
    shutil.rmtree(other)
    prepare_records(f"tsv:{pairs}", str(other), settings=SETTINGS)
    result = invoke("export_model", "--run-dir", str(run_dir), "--records", str(other))
    assert result.exit_code == 1
    assert "was not trained on" in result.stderr
    assert RecordSet.open(str(other)).fingerprint in result.stderr


def test_a_model_of_legacy_keras_exports_the_same(tmp_path):
    """Export in a process with TF_USE_LEGACY_KERAS=1: same checkpoint, same text."""
    run = fitted_run()
    directory = tmp_path / "run"
    shutil.copytree(run.directory, directory)
    export = subprocess.run(
        [sys.executable, "scripts/export_model.py", "--run-dir", str(directory)],
        cwd=ROOT,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert export.returncode == 0, export.stderr[-3000:]
    stdin = "".join(f"{source}\n" for source, _ in run.known).encode()
    result = invoke("translate", "--model", str(directory), stdin=stdin)
    assert result.stdout.splitlines() == [text for _, text in run.known]
    assert io.StringIO(export.stdout).readline().startswith("exported step")
