"""Small files of a run as an enemy would write them.

for number in range(2000):
spoil(random.Random(f"1-{number}"), run_dir, names)
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

from resumable_tf.checkpoint.sealed_json import seal

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, 10**300, 10**4000),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), "", "7", "../outside", "/etc"),
    *("http://localhost:9/x", "a\0b", "half \ud800", "e\u0301", "x" * 300, "\u202e"),
    *([], {}, [[]], {"": {}}, [0] * 50, "y" * 100_000),
)


def spoil(random_: random.Random, run_dir: Path, names: list[str]) -> str:
    """Changes one file of a run, or puts something else in its place.

    Returns:
        What was done.
    """
    name = random_.choice(names)
    path = run_dir / name
    data = path.read_bytes()
    kinds = [_value, _value, _value, _bytes, _cut, _place]
    how = random_.choice(kinds if name.endswith(".json") else kinds[3:])
    how(random_, path, data)
    return f"{how.__name__} of {name}"


def _value(random_: random.Random, path: Path, data: bytes) -> None:
    """Puts another value into JSON; mostly with a checksum that fits."""
    fields = json.loads(data)
    places = list(_places(fields))
    for _ in range(random_.randint(1, 2)):
        owner, key = random_.choice(places)
        if random_.random() < 0.1 and isinstance(owner, dict):
            owner.pop(key, None)
        elif isinstance(owner, dict) or key < len(owner):
            owner[key] = random_.choice(ODD)
    if random_.random() < 0.9 and isinstance(fields, dict):
        fields.pop("crc32c", None)
        try:
            fields = seal(fields)
        except ValueError:  # NaN: no checksum fits.
            fields["crc32c"] = "00000000"
    # Numbers of more digits than Python converts at once.
    path.write_text(json.dumps(fields))


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        for key in list(value):
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield value, index
            yield from _places(inner)


def _bytes(random_: random.Random, path: Path, data: bytes) -> None:
    changed = bytearray(data or b"0")
    for _ in range(random_.randint(1, 4)):
        changed[random_.randrange(len(changed))] = random_.randrange(256)
    path.write_bytes(changed)


def _cut(random_: random.Random, path: Path, data: bytes) -> None:
    end = random_.randrange(len(data) + 1)
    tail = random_.choice([b"", b"[" * 10_000, b"\0" * 100, b'{"a":' * 2_000])
    path.write_bytes(data[:end] + tail)


def _place(random_: random.Random, path: Path, data: bytes) -> None:
    path.unlink()
    kind = random_.choice(["pipe", "folder", "link", "device", "nowhere", "sparse"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(2**33)
    else:
        targets = {"link": "/etc/passwd", "device": "/dev/zero", "nowhere": "nowhere"}
        path.symlink_to(targets[kind])
