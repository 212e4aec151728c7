"""Packs several pairs into one fixed-length row, as TPUs want it.

    rows = pack(pairs, source_length=56, target_length=64)
    rows["target_segments"][0]          # [1 1 1 1 2 2 2 2 2 3 3 ... 0]

Shapes: N rows, S source length, T target length. In a row, `segments` numbers the
pairs 1, 2, ...; 0 is padding. `positions` count from 0 inside a segment. A model
must let no token attend to another segment. (Raffel et al. 2020, T5, section 3.1.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from resumable_tf.data.tokenizer import EOS_ID

TokenPair = tuple[Sequence[int], Sequence[int]]
"""Source and target ids of one pair, without bos and eos."""

FIELDS = (
    "source",
    "source_segments",
    "source_positions",
    "target",
    "target_segments",
    "target_positions",
)

_POOL_SIZE = 1024
_ALMOST_FULL = 1.4  # mean target lengths


def fits(pair: TokenPair, *, source_length: int, target_length: int) -> bool:
    """Tells whether both sides and their eos fit into one row."""
    return len(pair[0]) < source_length and len(pair[1]) < target_length


def assign_rows(
    lengths: npt.NDArray[np.int32], *, source_length: int, target_length: int
) -> list[list[int]]:
    """Returns for each row the indices of the pairs in it.

    A row takes the oldest pair of a pool that fits, and once little space is left
    the pair that leaves least of it. First-fit (also with many open rows) leaves
    5% padding on rows of 64 tokens, since two dimensions must fit at once; this
    leaves 1.5%. No pair waits for ever: each row begins with the oldest one.

    Args:
        lengths: Tokens of each source and target, eos included, shape [pairs, 2].
        source_length: S.
        target_length: T.
    """
    if not len(lengths):
        return []
    almost_full = _ALMOST_FULL * float(lengths[:, 1].mean())
    slots = np.arange(min(_POOL_SIZE, len(lengths)))  # the pair in each pool slot
    need = lengths[slots].copy()
    next_pair = len(slots)
    rows: list[list[int]] = []
    while len(slots):
        free = np.array([source_length, target_length], np.int32)
        row: list[int] = []
        while (fitting := np.flatnonzero((need <= free).all(axis=1))).size:
            take_oldest = not row or free.min() > almost_full
            rank = slots if take_oldest else -need.sum(axis=1)
            slot = fitting[rank[fitting].argmin()]
            row.append(int(slots[slot]))
            free = free - need[slot]
            if next_pair < len(lengths):
                slots[slot], need[slot] = next_pair, lengths[next_pair]
                next_pair += 1
            else:
                slots, need = np.delete(slots, slot), np.delete(need, slot, axis=0)
        rows.append(row)
    return rows


def pack(
    pairs: Sequence[TokenPair], *, source_length: int, target_length: int
) -> dict[str, npt.NDArray[np.uint16]]:
    """Returns the packed rows: six arrays of shape [N, S] or [N, T].

    Args:
        pairs: Token pairs, each of which `fits`.
        source_length: S.
        target_length: T.

    Raises:
        ValueError: If a pair is longer than a row.
    """
    lengths = np.array(
        [(len(source) + 1, len(target) + 1) for source, target in pairs], np.int32
    ).reshape(-1, 2)
    if len(pairs) and (lengths.max(axis=0) > (source_length, target_length)).any():
        raise ValueError(
            f"a pair of {lengths.max(axis=0).tolist()} tokens does not fit into a row "
            f"of {source_length} and {target_length}; drop it first (`fits`)"
        )
    members = assign_rows(
        lengths, source_length=source_length, target_length=target_length
    )
    rows: dict[str, npt.NDArray[np.uint16]] = {}
    for side, name, length in (
        (0, "source", source_length),
        (1, "target", target_length),
    ):
        arrays = [np.zeros((len(members), length), np.uint16) for _ in range(3)]
        for row_index, row in enumerate(members):
            _fill(arrays, row_index, (pairs[i][side] for i in row))
        for suffix, array in zip(("", "_segments", "_positions"), arrays, strict=True):
            rows[name + suffix] = array
    return rows


def _fill(
    arrays: list[npt.NDArray[np.uint16]],
    row_index: int,
    sequences: Iterable[Sequence[int]],
) -> None:
    start = 0
    tokens, segments, positions = (array[row_index] for array in arrays)
    for segment, ids in enumerate(sequences, start=1):
        end = start + len(ids) + 1
        tokens[start : end - 1] = ids
        tokens[end - 1] = EOS_ID
        segments[start:end] = segment
        positions[start:end] = np.arange(end - start)
        start = end


def unpack(rows: dict[str, npt.NDArray[np.uint16]]) -> Iterator[TokenPair]:
    """Yields the pairs of packed rows again, row by row, without eos."""
    for index in range(len(rows["source"])):
        segments = [rows[f"{side}_segments"][index] for side in ("source", "target")]
        for segment in range(1, int(segments[0].max()) + 1):
            source, target = (
                rows[side][index][of == segment][:-1].tolist()
                for side, of in zip(("source", "target"), segments, strict=True)
            )
            yield source, target


def padding_share(rows: dict[str, npt.NDArray[np.uint16]]) -> float:
    """Returns the share of padding among all tokens of the rows, 0 to 1."""
    segments = [rows["source_segments"], rows["target_segments"]]
    used = sum(int(np.count_nonzero(array)) for array in segments)
    return 1.0 - used / max(1, sum(array.size for array in segments))
