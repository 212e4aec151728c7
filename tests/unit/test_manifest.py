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
    canonical_json,
    hex_crc32c,
    normalize_json,
)
from resumable_tf.errors import CheckpointCorruptError, CheckpointVersionError

NAMES = st.text(st.characters(exclude_characters="/", codec="utf-8"), min_size=1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
COUNTS = st.integers(min_value=0, max_value=2**60)
CRC = st.integers(min_value=0, max_value=2**32 - 1).map(hex_crc32c)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=3)
MANIFESTS = st.builds(
    Manifest,
    step=COUNTS,
    epoch=st.none() | COUNTS,
    batch=st.none() | COUNTS,
    files=st.lists(st.builds(FileRecord, NAMES, COUNTS, CRC), max_size=3).map(tuple),
    inventory=st.dictionaries(
        st.text(),
        st.builds(
            TensorSpec,
            st.lists(COUNTS, max_size=4).map(tuple),
            st.sampled_from(["float32", "bfloat16", "string"]),
        ),
        max_size=3,
    ),
    optimizers=st.dictionaries(st.text(), st.text(), max_size=3),
    data=st.none() | OBJECTS,
    extra=OBJECTS,
    metrics=st.dictionaries(st.text(), FINITE, max_size=3),
    versions=st.dictionaries(st.text(), st.text(), max_size=3),
    topology=OBJECTS,
    config=st.none() | st.text(),
    time=FINITE,
    format_version=st.just(FORMAT_VERSION),
)
FIELDS = dataclasses.fields(Manifest)


def small_manifest() -> Manifest:
    return Manifest(
        step=7,
        epoch=0,
        batch=7,
        files=(FileRecord("ckpt-7.index", 10, "0000002a"),),
        inventory={"v/.ATTRIBUTES/VARIABLE_VALUE": TensorSpec((2, 3), "float32")},
        optimizers={"optimizer": "Adam"},
        data={"seed": 1},
        extra={"loop": [1, 2]},
        metrics={"loss": 0.5},
        versions={"tensorflow": "2.21.0"},
        topology={"num_replicas": 1},
        config="abc",
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


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"step": "DROP"}, "missing.*step"),
        ({"surprise": 1}, "unknown.*surprise"),
        ({"step": "7"}, "step is '7'"),
        ({"step": True}, "step is True"),
        ({"files": [{"name": "../x", "size": 1, "crc32c": "0"}]}, "file name"),
        ({"files": [{"name": "x"}]}, "missing"),
        ({"inventory": {"k": {"shape": [1]}}}, "dtype"),
        ({"format_version": 0}, "format_version 0"),
    ],
)
def test_parsing_is_strict(changes: dict[str, object], match: str) -> None:
    with pytest.raises(CheckpointCorruptError, match=match):
        Manifest.from_bytes(sealed(**changes))


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
    for value in (float("nan"), object(), {"a": {1}}):
        with pytest.raises(TypeError, match="extra must be JSON"):
            normalize_json(value, what="extra")
