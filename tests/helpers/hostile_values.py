"""Encoded values as an attacker would write them.

    for data in hostile(valid, count=100, seed=1):
        ...

Valid ones with bytes, or parts of their JSON text, replaced; and some made by hand.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

NAMES = ["os:system", "posix:system", "subprocess:Popen", "builtins:eval", "", "a.b"]
NAMES += ["__class__", "__dict__", "_model", "model", "patience", "on_epoch_end"]
NAMES += ["numpy:less", "Enums", "Objects.stats[0]", "value", "kept", "own", "O", "V9"]
NAMES += ["helpers.callback_shapes:Stats", "helpers.callback_shapes:WithEnd", "/etc/x"]
NUMBERS: list[Any] = [0, -1, 1, 2, 7, 1 << 31, 1 << 62, 1 << 64, 1 << 900, True, None]
NUMBERS += [-0.0, 1e308, float("nan"), float("inf"), 0.5]
FORMS: list[Any] = [
    {"reference": "posix:system"},
    {"function": "os:system", "names": []},
    {"function": "numpy:less", "names": []},
    {"enum": "helpers.callback_shapes:Phase", "names": ["MAIN"]},
    {"enum": "helpers.callback_shapes:Phase", "names": []},
    {"enum": "http:HTTPStatus", "names": ["OK"]},
    {"made": "subprocess:Popen", "base": None, "attributes": {"dict": []}},
    {"made": "helpers.callback_shapes:Setting", "base": None, "attributes": 3},
    {
        "made": "helpers.callback_shapes:Setting",
        "base": None,
        "attributes": {"dict": [["rate", 9.0], ["__class__", "x"]]},
    },
    {"held": "EarlyStopping", "as": "value", "state": {"list": []}},
    {"held": "EarlyStopping._model", "as": "kept", "state": None},
    {"held": "Guarded.secrets", "as": "kept", "state": None},
    {"held": "Guarded.frozen", "as": "value", "state": {"gone": True}},
    {"gone": True},
    {"gone": False},
    {"same": 1},
    {"same": 10**9},
    {"list": [{"set": [{"list": []}]}]},
    {"dict": [[{"list": []}, 1]]},
    {"set": [1, 1]},
    {"bytes": 1 << 40},
    {"bytes": -5},
    {"range": [0, 1 << 70, 1]},
    {"range": [0, 1, 0]},
    {"deque": [1, 2], "maxlen": 1},
    {"deque": [], "maxlen": 1 << 80},
    {"fraction": [1, 0]},
    {"decimal": "1e999999999999"},
    {"decimal": "x"},
    {"timedelta": [1 << 60, 0, 0]},
    {"datetime": "2020-13-01", "fold": 0},
    {"path": "a\u0000b", "of": "Path"},
    {"array": {"dtype": "|O", "shape": [1], "order": "C"}, "of": "array"},
    {"array": {"dtype": "<f8", "shape": [1 << 40], "order": "C"}, "of": "array"},
    {"array": {"dtype": "<f8", "shape": [0, 1 << 61], "order": "C"}, "of": "array"},
    {"array": {"dtype": "|S0", "shape": [1 << 40], "order": "C"}, "of": "array"},
    {"array": {"dtype": "<U99999999", "shape": [0], "order": "C"}, "of": "array"},
    {"array": {"dtype": "<f8", "shape": [-1], "order": "C"}, "of": "array"},
    {"array": {"lengths": [1 << 50], "shape": [1]}, "of": "tensor"},
    {"ragged": []},
    {"sparse": [1, 2, 3]},
    {"generator": "numpy", "state": {"dict": [["bit_generator", "MT19937"]]}},
    {"generator": "python", "state": {"tuple": [3, {"tuple": []}, None]}},
    {"defaultdict": [], "factory": "eval"},
    {"defaultdict": [], "factory": {"function": "os:system", "names": []}},
    {"complex": [1, 2]},
]


def packed(form: Any, buffers: bytes = b"") -> bytes:
    """Returns the bytes of a JSON value and what follows it."""
    text = json.dumps(form).encode()
    return len(text).to_bytes(8, "little") + text + buffers


def nested(depth: int) -> bytes:
    """Returns the bytes of lists within lists."""
    text = (b'{"list": [' * depth) + (b"]}" * depth)
    return len(text).to_bytes(8, "little") + text


def by_hand() -> list[bytes]:
    """Returns the forms that have a defect of their own."""
    found = [packed(form) for form in FORMS]
    found += [packed({"list": [form] * 2}) for form in FORMS]
    found += [b"", b"\xff" * 8, bytes(8), nested(90), nested(120), nested(200_000)]
    texts = [b'{"list": [], "list": []}', b"[" * 100_000, b"9" * 5000, b"nul", b"\xff"]
    texts += [b'{"set": [NaN, NaN]}', b"-Infinity", b'"\\ud800"']
    found += [len(text).to_bytes(8, "little") + text for text in texts]
    again = [{"list": []}]
    again += [{"list": [{"same": i + 1}, {"same": i + 1}]} for i in range(60)]
    return [*found, packed({"list": again})]


def hostile(valid: Sequence[bytes], *, count: int, seed: int) -> Iterator[bytes]:
    """Yields mutations of valid values.

    Args:
        valid: What a save has written.
        count: How many.
        seed: Of the choices.
    """
    choose = random.Random(seed)
    parsed = [parts(data) for data in valid]
    for _ in range(count):
        index = choose.randrange(len(valid))
        if choose.random() < 0.3:
            yield broken(bytearray(valid[index]), choose)
            continue
        form, buffers = parsed[index]
        form = copy.deepcopy(form)
        for _ in range(choose.choice((1, 1, 2, 4))):
            form = mutated(form, choose)
        yield packed(form, buffers)


def parts(data: bytes) -> tuple[Any, bytes]:
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def broken(data: bytearray, choose: random.Random) -> bytes:
    """Returns bytes with some changed, cut off or doubled."""
    way = choose.randrange(3)
    at = choose.randrange(len(data))
    if way == 0:
        for _ in range(choose.choice((1, 2, 8))):
            data[choose.randrange(len(data))] = choose.randrange(256)
    elif way == 1:
        del data[at:]
    else:
        data[at:at] = data[at : at + choose.randrange(1, 40)]
    return bytes(data)


def mutated(form: Any, choose: random.Random) -> Any:
    """Returns a JSON value with one node replaced."""
    spots: list[tuple[Any, Any]] = []
    queue = [form]
    while queue:
        node = queue.pop()
        pairs = enumerate(node) if isinstance(node, list) else node.items()
        for key, child in pairs:
            spots.append((node, key))
            if isinstance(child, (list, dict)):
                queue.append(child)
    if not spots:
        return copy.deepcopy(choose.choice(FORMS))
    node, key = choose.choice(spots)
    way = choose.randrange(6)
    if way == 0:
        node[key] = copy.deepcopy(choose.choice(FORMS))
    elif way == 1:
        node[key] = choose.choice(NAMES)
    elif way == 2:
        node[key] = choose.choice(NUMBERS)
    elif way == 3 and isinstance(node, dict):
        node[choose.choice(NAMES)] = node.pop(key)
    elif way == 4:
        del node[key]
    else:
        other, name = choose.choice(spots)
        node[key] = copy.deepcopy(other.get(name) if isinstance(other, dict) else None)
    return form
