"""The compiler's environment: made once, whole or not at all, by any number at once."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from resumable_tf.errors import CompilerEnvironmentError
from resumable_tf.tpu import compiler_environment
from resumable_tf.tpu.compiler_environment import (
    PINS,
    CompilerEnvironment,
    default_directory,
    environment_key,
    find_or_make,
)

ROOT = Path(__file__).resolve().parents[2]


def test_the_extra_holds_the_pins() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.extras_require"]["tpu-check"].split()
    assert sorted(lines) == sorted(PINS)
    assert all("==" in pin for pin in PINS)


def test_its_directory_is_the_user_s_cache_unless_one_is_named() -> None:
    name = "RESUMABLE_TF_TPU_CHECK_DIR"
    assert default_directory({name: "/a", "XDG_CACHE_HOME": "/b"}) == "/a"
    assert default_directory({"XDG_CACHE_HOME": "/b"}) == "/b/resumable-tf/tpu-check"
    assert default_directory({}).endswith("/.cache/resumable-tf/tpu-check")


def test_other_pins_have_another_environment() -> None:
    keys = {environment_key(pins) for pins in (PINS, PINS[:2], ("jax==0.10.3",))}
    assert len(keys) == 3
    assert environment_key(PINS) == environment_key(tuple(reversed(PINS)))


PIN = "tiny-package==1.0"


@pytest.fixture
def package_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is the only place pip may take packages from."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return index


def write_wheel(index: Path) -> None:
    """Writes a wheel of `PIN`."""
    info = "tiny_package-1.0.dist-info"
    files = {
        "tiny_package.py": "answer = 42\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = index / "tiny_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(name, text)


def test_an_interrupted_one_is_made_anew_and_two_starts_at_once_make_one(
    tmp_path: Path, package_index: Path
) -> None:
    write_wheel(package_index)
    half = tmp_path / environment_key((PIN,))
    (half / "bin").mkdir(parents=True)
    python = half / "bin" / "python"
    python.write_text("half a file")
    code = (
        "import sys; from resumable_tf.tpu.compiler_environment import find_or_make;"
        "print(find_or_make(sys.argv[1], pins=(sys.argv[2],)).python)"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), PIN],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [start.communicate(timeout=300) for start in starts]
    assert [start.returncode for start in starts] == [0, 0], outputs
    assert {stdout.strip() for stdout, _ in outputs} == {str(python)}
    # One of them made it, the other waited and found it.
    assert sum("making the TPU compiler's" in stderr for _, stderr in outputs) == 1
    code = "import tiny_package; print(tiny_package.answer)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert done.stdout == "42\n"
    assert json.loads((half / "complete.json").read_text()) == {"pins": [PIN]}


def test_what_the_index_lacks_is_named_and_nothing_is_left_that_looks_whole(
    tmp_path: Path, package_index: Path
) -> None:
    with pytest.raises(CompilerEnvironmentError, match="reaches a package index"):
        find_or_make(str(tmp_path), pins=(PIN,))
    target = tmp_path / environment_key((PIN,))
    assert target.exists() and not (target / "complete.json").exists()


def test_an_old_python_is_refused_by_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler_environment.sys, "version_info", (3, 10, 14))
    with pytest.raises(CompilerEnvironmentError, match=r"3\.11 or newer; this is 3\.1"):
        find_or_make(str(tmp_path))


def test_a_directory_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CompilerEnvironmentError, match="--environment-dir"):
        find_or_make(str(tmp_path / "file" / "below"))


def fake_python(tmp_path: Path, script: str) -> CompilerEnvironment:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return CompilerEnvironment(str(path))


def test_a_compiler_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    environment = fake_python(tmp_path, "echo Check failed: chip >&2; kill -ABRT $$")
    with pytest.raises(CompilerEnvironmentError, match=r"ended with -6(.|\n)*Check fa"):
        environment.compile(b"", {}, timeout_secs=30)


def test_a_compiler_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    environment = fake_python(tmp_path, "exec sleep 60")
    with pytest.raises(CompilerEnvironmentError, match=r"after 0\.2 s.*\n.*--timeout"):
        environment.compile(b"", {}, timeout_secs=0.2)


def test_settings_that_change_the_figures_do_not_reach_the_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_EXEC_TIME_OPTIMIZATION_EFFORT", "-1")
    monkeypatch.setenv("XLA_FLAGS", "--xla_x")
    script = 'env | sed "s/.*/\\"&\\",/; 1s/^/[/; \\$s/,$/]/" > "$4"'
    answer, hlo = fake_python(tmp_path, script).compile(b"", {}, timeout_secs=30)
    names = {line.split("=")[0] for line in answer}
    assert {"TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"} <= names
    assert not {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT", "XLA_FLAGS"} & names
    assert hlo == ""
