"""Where a checkpoint says that its records are is never looked at."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from resumable_tf.errors import DataFormatError
from resumable_tf.serving.run_loader import Run
from resumable_tf.storage import open_storage


@pytest.mark.parametrize(
    "named", ["http://localhost:9/x", "/etc", "../outside", 7, "a\x1b[2J", None]
)
def test_records_are_taken_from_the_run_or_where_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: Any
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "records.json").write_text("{}")
    monkeypatch.setattr(fsspec.core, "url_to_fs", None)
    monkeypatch.setattr(fsspec, "open", None)
    run = Run(open_storage(str(tmp_path / "run")), {}, "")
    info: Any = SimpleNamespace(manifest=SimpleNamespace(extra={"records": named}))
    with pytest.raises(DataFormatError, match="--records") as caught:
        run.open_records(info)
    assert caught.value.path == str(tmp_path / "run" / "records")
    assert "\x1b" not in str(caught.value)
    with pytest.raises(DataFormatError, match="outside"):
        run.open_records(info, str(outside))
