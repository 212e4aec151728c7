"""Keeps what may be a secret out of everything that is shown.

redactor = Redactor({"HF_TOKEN": "abc", "SEED": "1"})
redactor("HF_TOKEN=abc SEED=1")             # "HF_TOKEN=*** SEED=1"

A name does not tell reliably what its value is: previews show no value at all. Where
values must be shown, names and lengths decide.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence

MASK = "***"
# PGPASSWORD and APIKEY have nothing before the word; MONKEY and BYPASS are none.
_SECRET_NAME = re.compile(
    r"(?:(?:token|secret|password|passwd|passphrase|credential|apikey)s?"
    r"|(?:^|[_-])(?:key|pass|pwd|pat|auth)s?)(?:[_-]?\d+)?$",
    re.I,
)
_SHORTEST_VALUE = 8
"""Characters; what is shorter, such as 1 or true, stands in many a message."""


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
    """Replaces values of one job's environment wherever they stand in a text."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """Remembers the values to hide.

        Args:
            env: Environment variables; those with the name of a secret are hidden,
                and long ones.
        """
        values = {
            value
            for name, value in env.items()
            if value and (is_secret_name(name) or len(value) >= _SHORTEST_VALUE)
        }
        # As a shell and as JSON would quote them, too.
        values |= {shlex.quote(v) for v in values} | {json.dumps(v) for v in values}
        # The longest first: one secret may be a part of another.
        self._values = sorted(values, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Returns the text with every secret value masked."""
        for value in self._values:
            text = text.replace(value, MASK)
        return text
