"""Keeps what looks like a secret out of everything that is shown.

redactor = Redactor({"HF_TOKEN": "abc", "SEED": "1"})
redactor("HF_TOKEN=abc SEED=1")             # "HF_TOKEN=*** SEED=1"
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence

MASK = "***"
_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:key|token|secret|password|passwd|passphrase|credentials?)s?$", re.I
)


def is_secret_name(name: str) -> bool:
    """Tells whether a value of this name must not be shown."""
    return bool(_SECRET_NAME.search(name))


def secret_flag_in(args: Sequence[str]) -> str | None:
    """Returns the first flag such as `--api-key` or `--hub-token=...`, by name only."""
    for arg in args:
        flag = arg.partition("=")[0]
        if flag.startswith("--") and is_secret_name(flag[2:]):
            return flag
    return None


class Redactor:
    """Replaces the secret values of one job wherever they stand in a text."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """Remembers the values to hide.

        Args:
            env: Environment variables; those with the name of a secret are hidden.
        """
        values = {value for name, value in env.items() if is_secret_name(name)} - {""}
        # As a shell and as JSON would quote them, too.
        values |= {shlex.quote(v) for v in values} | {json.dumps(v) for v in values}
        # The longest first: one secret may be a part of another.
        self._values = sorted(values, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Returns the text with every secret value masked."""
        for value in self._values:
            text = text.replace(value, MASK)
        return text
