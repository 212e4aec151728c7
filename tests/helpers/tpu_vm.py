"""A TPU VM: its metadata server, and programs that note how they were called.

with MetadataServer({"instance/attributes/agent-worker-number": "0"}) as metadata:
    host = TpuVm(tmp_path, metadata, fake_gcs)
    host.boot()
    host.calls                  # [["systemctl", "daemon-reload"], ...]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from helpers.fake_gcs import FakeGcs
from helpers.fake_metadata import PREFIX, FakeMetadata

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "tpu_vm_startup.sh"
TOKEN = "ya29.a-token-that-nobody-may-see"
_TOKEN_PATH = "instance/service-accounts/default/token"

# Each writes a line of JSON: its name and its arguments.
_NOTE = r"""#!/bin/bash
{ printf '["%s"' "$(basename "$0")"; printf ',"%s"' "$@"; echo ']'; } >>"$CALLS"
"""
_PYTHON = (
    _NOTE
    + r"""
if [[ $1 == -m && $2 == venv ]]; then
  mkdir -p "$3/bin"
  cp "$0" "$3/bin/python"
  if [[ -n ${FAIL_INSTALL:-}${KILL_VENV:-} ]]; then
    sed -i '$ s/.*/exit 1/' "$3/bin/python"  # Its link comes before its pip.
  fi
  if [[ -n ${KILL_VENV:-} ]]; then kill -KILL $PPID; sleep 1; fi
fi
[[ "$*" == *"import ensurepip"* && -n ${NO_ENSUREPIP:-} ]] && exit 1
exit 0
"""
)


class MetadataServer(FakeMetadata):
    """Google's metadata server, with a token; a path without a value is 404."""

    def __init__(self, values: dict[str, str]) -> None:
        token = json.dumps({"access_token": TOKEN, "expires_in": 3599})
        super().__init__({_TOKEN_PATH: token, **values})

    @property
    def url(self) -> str:
        return f"http://{self.host}{PREFIX.rstrip('/')}"


class TpuVm:
    """One host, below a folder of its own."""

    def __init__(self, folder: Path, metadata: MetadataServer, gcs: FakeGcs) -> None:
        self.root = folder / "root"
        self._calls = folder / "calls"
        self._calls.touch()
        programs = folder / "programs"
        programs.mkdir()
        for name, text in [
            ("systemctl", _NOTE),
            ("apt-get", _NOTE),
            ("python3", _PYTHON),
            ("curl", _NOTE + f'exec {shutil.which("curl")} "$@"\n'),
        ]:
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self._env = {
            "PATH": f"{programs}{os.pathsep}/usr/bin:/bin",
            "CALLS": str(self._calls),
            "TMPDIR": str(folder),
            "RESUMABLE_TF_ROOT": str(self.root),
            "RESUMABLE_TF_METADATA_URL": metadata.url,
            "RESUMABLE_TF_STORAGE_URL": gcs.url,
        }

    def boot(self, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs the start-up script, as every boot does."""
        return subprocess.run(
            ["bash", str(SCRIPT)],
            env={**self._env, **env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def calls(self) -> list[list[str]]:
        """What was called since the last look."""
        lines = self._calls.read_text().splitlines()
        self._calls.write_text("")
        return [json.loads(line) for line in lines]

    def file(self, name: str) -> Path:
        return self.root / name

    def snapshot(self) -> dict[str, tuple[bytes, int, int]]:
        """Contents, mode and time of change of every file."""
        return {
            str(path): (
                path.read_bytes(),
                path.stat().st_mode,
                path.stat().st_mtime_ns,
            )
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }
