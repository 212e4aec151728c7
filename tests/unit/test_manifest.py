"""The manifest is exact, canonical and damage-proof."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import google_crc32c
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resumable_tf.checkpoint.manifest import (
    FORMAT_VERSION,
    FileRecord,
    Manifest,
    TensorSpec,
    hex_crc32c,
    normalize_json,
)
from resumable_tf.errors import CheckpointCorruptError, CheckpointVersionError
from resumable_tf.storage.schema import MAX_INT, MAX_TIME
from resumable_tf.storage.strict_json import canonical_json

FINITE = st.floats(-1.7e308, 1.7e308)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
COUNTS = st.integers(min_value=0, max_value=MAX_INT)
CRC = st.integers(min_value=0, max_value=2**32 - 1).map(hex_crc32c)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=3)


@st.composite
def bundles(draw: st.DrawFn, step: int) -> tuple[FileRecord, ...]:
    """Returns the records of an index and all its data files, in any order."""
    total = draw(st.integers(1, 3))
    names = [f"ckpt-{step}.data-{i:05d}-of-{total:05d}" for i in range(total)]
    names = draw(st.permutations([f"ckpt-{step}.index", *names]))
    return tuple(FileRecord(name, draw(COUNTS), draw(CRC)) for name in names)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    step = draw(COUNTS)
    return Manifest(
        step=step,
        epoch=draw(st.none() | COUNTS),
        batch=draw(st.none() | COUNTS),
        files=draw(bundles(step)),
        inventory=draw(
            st.dictionaries(
                st.text(),
                st.builds(
                    TensorSpec,
                    st.lists(st.integers(0, 2**15), max_size=4).map(tuple),
                    st.sampled_from(["float32", "bfloat16", "string"]),
                ),
                max_size=3,
            )
        ),
        optimizers=draw(st.dictionaries(st.text(), st.text(), max_size=3)),
        data=draw(st.none() | OBJECTS),
        extra=draw(OBJECTS),
        metrics=draw(st.dictionaries(st.text(), FINITE, max_size=3)),
        versions=draw(st.dictionaries(st.text(), st.text(), max_size=3)),
        topology={"num_replicas": draw(COUNTS)},
        config=draw(st.none() | st.just("5" * 64)),
        time=draw(st.floats(0, MAX_TIME)),
        format_version=FORMAT_VERSION,
    )


MANIFESTS = manifests()
FIELDS = dataclasses.fields(Manifest)


def small_manifest() -> Manifest:
    return Manifest(
        step=7,
        epoch=0,
        batch=7,
        files=(
            FileRecord("ckpt-7.index", 10, "0000002a"),
            FileRecord("ckpt-7.data-00000-of-00001", 24, "0000002b"),
        ),
        inventory={"v/.ATTRIBUTES/VARIABLE_VALUE": TensorSpec((2, 3), "float32")},
        optimizers={"optimizer": "Adam"},
        data={"seed": 1},
        extra={"loop": [1, 2]},
        metrics={"loss": 0.5},
        versions={"tensorflow": "2.21.0"},
        topology={"num_replicas": 1},
        config="ab" * 32,
        time=12.5,
    )


def sealed(**changes: object) -> bytes:
    """Returns the example with other fields and a checksum that fits."""
    fields = json.loads(small_manifest().to_bytes())
    fields.update(changes)
    fields = {name: value for name, value in fields.items() if value != "DROP"}
    fields.pop("crc32c", None)
    fields["crc32c"] = hex_crc32c(google_crc32c.value(canonical_json(fields)))
    return canonical_json(fields)


@given(MANIFESTS)
def test_round_trip_is_exact_and_canonical(manifest: Manifest) -> None:
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data)
    assert again == manifest
    assert again.to_bytes() == data


@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    original = small_manifest().to_bytes()
    index = data.draw(st.integers(0, len(original) - 2))  # The last is the newline.
    byte = data.draw(st.integers(0, 255).filter(lambda new: new != original[index]))
    damaged = original[:index] + bytes([byte]) + original[index + 1 :]
    with pytest.raises(CheckpointCorruptError):
        Manifest.from_bytes(damaged)


DAMAGES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=8)),
    min_size=1,
    max_size=4,
)


@given(MANIFESTS, DAMAGES)
def test_a_damaged_manifest_is_refused_or_says_the_same(
    manifest: Manifest, damages: list[tuple[float, int, bytes]]
) -> None:
    """Wherever, whatever: bytes that are lost, changed and added."""
    data = manifest.to_bytes()
    for where, length, new in damages:
        place = int(where * len(data))
        data = data[:place] + new + data[place + length :]
    try:
        found = Manifest.from_bytes(data)
    except (CheckpointCorruptError, CheckpointVersionError):
        return
    assert found == manifest


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"crc32c": ' * 5_000 + b"1" + b"}" * 5_000)
@example(b'{"crc32c": "00000000", "time": 1e999}')
@example(b'{"crc32c": "00000000", "time": NaN}')
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointCorruptError):
        Manifest.from_bytes(data)


@given(st.sampled_from([field.name for field in FIELDS]), JSON)
def test_a_field_of_any_other_value_is_refused_or_kept(name: str, value: Any) -> None:
    """With a checksum that fits: what another program could have written."""
    try:
        found = Manifest.from_bytes(sealed(**{name: value}))
    except (CheckpointCorruptError, CheckpointVersionError):
        return
    assert json.loads(found.to_bytes())[name] == value


@pytest.mark.parametrize("length", [0, 1, 50, -2])
def test_a_cut_off_manifest_is_noticed(length: int) -> None:
    with pytest.raises(CheckpointCorruptError, match="damaged or cut off"):
        Manifest.from_bytes(small_manifest().to_bytes()[:length])


INDEX = {"name": "ckpt-7.index", "size": 10, "crc32c": "0000002a"}
DATA = {"name": "ckpt-7.data-00000-of-00001", "size": 24, "crc32c": "0000002b"}


def renamed(name: str) -> dict[str, Any]:
    return {"files": [INDEX, {**DATA, "name": name}]}


SPEC = {"shape": [1], "dtype": "float32"}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"step": "DROP"}, "missing.*step"),
    ({"surprise": 1}, "unknown.*surprise"),
    ({"step": "7"}, "step is '7'"),
    ({"step": True}, "step is True"),
    ({"step": -1}, "step is -1"),
    ({"step": 7.0}, r"step is 7\.0"),
    ({"step": 2**63}, "step is 9223372036854775808"),
    ({"step": 8}, "not those of one checkpoint of step 8"),
    ({"epoch": "1"}, "epoch is '1'"),
    ({"time": -1}, "time is -1"),
    ({"time": 1e300}, r"time is 1e\+300"),
    ({"metrics": {"loss": "low"}}, "'loss' is 'low'"),
    ({"metrics": {"loss": 10**400}}, "expected a number|digits"),
    ({"config": "../run.json"}, "config is"),
    ({"format_version": 0}, "format_version is 0"),
    ({"format_version": True}, "format_version is True"),
    ({"topology": {}}, "missing.*num_replicas"),
    ({"files": []}, "0 items"),
    ({"files": [INDEX]}, "1 items"),
    ({"files": [DATA, DATA]}, "not those of one checkpoint"),
    ({"files": [INDEX, DATA, DATA]}, "not those of one checkpoint"),
    ({"files": [INDEX, INDEX, DATA]}, "not those of one checkpoint"),
    ({"files": [INDEX, {**DATA, "size": -1}]}, "size is -1"),
    ({"files": [INDEX, {**DATA, "size": 2**63}]}, "size is 9223372036854775808"),
    ({"files": [INDEX, {**DATA, "crc32c": 43}]}, "crc32c is 43"),
    ({"files": [INDEX, {**DATA, "crc32c": "2B"}]}, "crc32c is '2B'"),
    ({"files": [INDEX, {"name": "x"}]}, "missing"),
    (renamed("../x"), "without a directory"),
    (renamed("/etc/passwd"), "without a directory"),
    (renamed(".."), "without a directory"),
    (renamed(""), "without a directory"),
    (renamed("a\0b"), "without a directory"),
    (renamed("a\nb"), "without a directory"),
    (renamed("e\u0301"), "without a directory"),
    (renamed("x" * 300), "without a directory"),
    (renamed("ckpt-8.data-00000-of-00001"), "not those of one checkpoint"),
    (renamed("ckpt-07.data-00000-of-00001"), "not those of one checkpoint"),
    (renamed("ckpt-7.data-00000-of-00002"), "not those of one checkpoint"),
    (renamed("ckpt-7.data-00001-of-00001"), "not those of one checkpoint"),
    (renamed("ckpt-7.manifest.json"), "not those of one checkpoint"),
    ({"inventory": {"k": {"shape": [1]}}}, "dtype"),
    ({"inventory": {"k": {**SPEC, "shape": [-1]}}}, "is -1"),
    ({"inventory": {"k": {**SPEC, "shape": [2**40, 2**40]}}}, "larger than any file"),
    ({"inventory": {"k": {**SPEC, "shape": [1] * 300}}}, "300 items"),
    ({"inventory": {"k": {**SPEC, "dtype": "os.system"}}}, "dtype is"),
    ({"inventory": {"k" * 5000: SPEC}}, "a key of"),
    ({"extra": {"a": "half \ud800"}}, "half a character"),
    ({"extra": {"half \ud800": 1}}, "half a character"),
]


@pytest.mark.parametrize(("changes", "match"), WRONG)
def test_parsing_is_strict(changes: dict[str, object], match: str) -> None:
    with pytest.raises(CheckpointCorruptError, match=match):
        Manifest.from_bytes(sealed(**changes))


def test_nothing_is_written_that_could_not_be_read_again() -> None:
    wrong = [
        {"files": ()},
        {"epoch": "first"},
        {"extra": {"a": "half \ud800"}},
        {"extra": {"a": "long" * 2**23}},
        {"metrics": {"loss": "low"}},
    ]
    for changes in wrong:
        with pytest.raises(ValueError, match=r"manifest|files|half"):
            dataclasses.replace(small_manifest(), **changes).to_bytes()


def test_a_newer_format_is_no_damage() -> None:
    with pytest.raises(CheckpointVersionError, match="use a newer resumable-tf"):
        Manifest.from_bytes(sealed(format_version=FORMAT_VERSION + 1, surprise=1))


def test_json_that_is_no_object_is_damage() -> None:
    for data in (b"[]\n", b"{}\n", b"null\n"):
        with pytest.raises(CheckpointCorruptError, match="no checksum"):
            Manifest.from_bytes(data)


def test_equal_manifests_have_equal_bytes_in_any_order() -> None:
    manifest = small_manifest()
    other = dataclasses.replace(
        manifest, extra=dict(reversed(list(manifest.extra.items())))
    )
    assert other.to_bytes() == manifest.to_bytes()


def test_normalize_json_gives_what_will_be_read_back() -> None:
    assert normalize_json({"a": (1, 2)}, what="extra") == {"a": [1, 2]}
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    wrong = (float("nan"), object(), {"a": {1}}, "half \ud800", {1: 0, "1": 0}, deep)
    for value in (*wrong, 10**500):
        with pytest.raises(TypeError, match="extra must be JSON"):
            normalize_json(value, what="extra")
