"""A corpus that is not UTF-8 is refused with advice that works; no password shows."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from resumable_tf.data.pairs import open_source
from resumable_tf.errors import DataFormatError

TEXT = "".join(f"Open file {n}\tÖffne Datei {n}\n" for n in range(400))


@pytest.mark.skipif(shutil.which("iconv") is None, reason="there is no iconv")
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-16", ""),
        ("utf-16-le", ""),
        ("utf-16-be", ""),
        ("utf-16-be", "\ufeff"),
        ("utf-32", ""),
        ("utf-32-le", ""),
        ("utf-32-be", ""),
        ("cp1252", ""),
    ],
)
def test_the_advice_for_another_encoding_gives_the_same_pairs(
    encoding: str, mark: str, tmp_path: Path
) -> None:
    path, good = tmp_path / "a b.tsv", tmp_path / "good.tsv"
    path.write_bytes((mark + TEXT).encode(encoding))
    with pytest.raises(DataFormatError, match="iconv") as raised:
        list(open_source(f"tsv:{path}").read("train"))
    advice = str(raised.value).rpartition("iconv ")[2]
    done = subprocess.run(["iconv", *shlex.split(advice)], capture_output=True)
    good.write_bytes(done.stdout)
    pairs = list(open_source(f"tsv:{good}").read("train"))
    assert pairs and pairs[0][1].startswith("Öffne Datei")


def test_nul_characters_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(TEXT.encode() + b"one\0\tzwei\n")
    with pytest.raises(DataFormatError, match="line 401 has NUL"):
        list(open_source(f"tsv:{path}").read("train"))


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@127.0.0.1:9/a.tsv",
        "http://127.0.0.1:9/a.tsv?sig=hunter2",
        "nosuch://me:hunter2@host/a.tsv",
    ],
)
def test_an_error_about_a_url_shows_no_password(url: str) -> None:
    for spec in (f"tsv:{url}", f"moses:{url},{url}"):
        source = open_source(spec)
        with pytest.raises(DataFormatError) as raised:
            list(source.read("train"))
        assert "hunter2" not in str(raised.value) + source.name + str(raised.value.path)
        assert raised.value.__suppress_context__
